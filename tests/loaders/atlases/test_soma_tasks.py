"""The experiment says the same whoever writes its slabs, in whatever order, however often it was stopped."""

import pickle
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cfgen_scale.types import AtlasSchema, GeneratedCells, Modality
from loaders.atlases import soma_tasks
from loaders.atlases.generated_atlas import GeneratedAtlas
from loaders.atlases.soma_slab_writer import SlabWriter
from loaders.atlases.soma_tasks import SomaTask, all_soma_tasks
from loaders.atlases.soma_writer import SomaAssembly, write_soma
from loaders.atlases.writer import PartialAtlas
from loaders.stores.opening import open_store
from tests.loaders.generated import CELL_TYPE, PROTEIN, cells_of, write_atlas
from tests.soma_contents import fragments_of, small_slabs, soma_contents

# Three tiles of 2,048 features and, of each, three of as many cells.
GENES = tuple(f"gene_{i}" for i in range(4_300))
SCHEMA = AtlasSchema((Modality("rna", "negative_binomial", GENES), PROTEIN), (CELL_TYPE,))
CHUNKS = [cells_of(n, seed=n, schema=SCHEMA) for n in (1_400, 1_500, 1_300)]
SLABS = {"obs": 3, "ms/RNA/obsm/X_cfgen": 3, "ms/RNA/X/counts": 3, "ms/protein/X/counts": 3}
VARS = {"ms/RNA/var": 1, "ms/protein/var": 1}


@pytest.fixture(autouse=True, scope="module")
def _small_slabs() -> Iterator[None]:
    with small_slabs():
        yield


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_atlas(tmp_path_factory.mktemp("atlas") / "atlas.zarr", CHUNKS, schema=SCHEMA)


@pytest.fixture(scope="module")
def whole(atlas: Path, _small_slabs: None) -> dict[str, Any]:
    return soma_contents(write_soma(atlas, atlas.with_name("undisturbed.soma")))


def begun(atlas: Path, out: Path) -> SomaAssembly:
    with PartialAtlas.beside(out).held():
        return SomaAssembly.of(atlas, out)


def test_counts_across_tiles_are_those_of_the_atlas(atlas: Path, whole: dict[str, Any]) -> None:
    store = open_store(atlas.with_name("undisturbed.soma"), measurement="RNA")
    rows = np.random.default_rng(0).permutation(4_200)[:700]
    expected = np.concatenate([chunk.counts[0].toarray() for chunk in CHUNKS])[rows]
    np.testing.assert_array_equal(store.read(rows).toarray(), expected)
    assert whole["RNA/nnz"][0] == sum(chunk.counts[0].nnz for chunk in CHUNKS)


def test_slabs_in_any_order_twice_and_at_once(atlas: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    out = tmp_path / "atlas.soma"
    soma = begun(atlas, out)
    tasks = soma.tasks()
    assert len(tasks) == sum(SLABS.values())
    shuffled = np.random.default_rng(0).permutation(np.repeat(np.arange(len(tasks)), 2))
    with ThreadPoolExecutor(4) as pool:
        copies = [pickle.loads(pickle.dumps((soma.writer, tasks[i]))) for i in shuffled]
        list(pool.map(lambda pair: pair[0].run(pair[1]), copies))
    assert soma.tasks() == []
    assert soma_contents(soma.complete(out)) == whole
    assert fragments_of(out) == SLABS | VARS, "a slab that was written twice is there once"
    assert [path.name for path in tmp_path.iterdir()] == ["atlas.soma"]


def test_what_was_torn_is_written_again(atlas: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    out = tmp_path / "atlas.soma"
    soma = begun(atlas, out)
    tasks = soma.tasks()
    for task in tasks[::2]:
        soma.writer.run(task)
    cut_off, uncommitted, unsaid = tasks[0], tasks[2], tasks[6]
    of_cut_off = fragment_of(cut_off, soma.writer) / "d0.tdb"
    of_cut_off.write_bytes(of_cut_off.read_bytes()[:-1])
    commit_of(uncommitted, soma.writer).unlink()
    (soma.writer.work / "done" / f"{unsaid.name}.json").unlink()
    torn = fragment_of(tasks[4], soma.writer).with_name("__1_1_00000000000000000000000000000000_22")
    torn.mkdir()
    (torn / "a0.tdb").write_bytes(b"torn")
    with pytest.raises(RuntimeError, match="is not whole: task obs-0-000000 is not done"):
        soma.complete(out)
    assert not out.exists()
    again = begun(atlas, out)
    assert again.writer == soma.writer
    assert {task.name for task in again.tasks()} == {
        task.name for task in {*tasks[1::2], cut_off, uncommitted, unsaid}
    }
    write_soma(atlas, out)
    assert soma_contents(out) == whole
    assert fragments_of(out) == SLABS | VARS
    assert [path.name for path in tmp_path.iterdir()] == ["atlas.soma"]


def fragment_of(task: SomaTask, writer: SlabWriter) -> Path:
    return commit_of(task, writer).parents[1] / "__fragments" / commit_of(task, writer).stem


def commit_of(task: SomaTask, writer: SlabWriter) -> Path:
    as_of = writer.begun + 1 + task.number
    (found,) = (writer.building / task.array / "__commits").glob(f"__{as_of}_{as_of}_*.wrt")
    return found


@pytest.mark.parametrize("at", ["os.rename", "PartialAtlas.remove", "SomaAssembly._write_provenance"])
def test_killed_at_the_finish(
    at: str, atlas: Path, tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    out = tmp_path / "atlas.soma"
    with monkeypatch.context() as patch:
        where = "writer" if at.startswith("PartialAtlas") else "soma_writer"
        patch.setattr(f"loaders.atlases.{where}.{at}", killed)
        with pytest.raises(Killed):
            write_soma(atlas, out)
    assert out.exists() == (at == "PartialAtlas.remove")
    if not out.exists():
        assert begun(atlas, out).tasks() == []
        write_soma(atlas, out)
    assert soma_contents(out) == whole
    assert fragments_of(out) == SLABS | VARS


def test_one_killed_while_it_was_laid_out_begins_anew(
    atlas: Path, tmp_path: Path, whole: dict[str, Any]
) -> None:
    out = tmp_path / "atlas.soma"
    soma = begun(atlas, out)
    soma.writer.run(soma.tasks()[0])
    (soma.writer.work / "laid_out.json").unlink()
    shutil.rmtree(soma.writer.building / "ms")
    assert len(begun(atlas, out).tasks()) == len(soma.all_tasks)
    assert soma_contents(write_soma(atlas, out)) == whole


def test_no_slab_is_of_a_time_to_come(atlas: Path, tmp_path: Path) -> None:
    """A reader that opens the experiment when it is finished sees all of it, whatever clocks workers have."""
    out = tmp_path / "atlas.soma"
    soma = begun(atlas, out)
    assert soma.writer.begun + 1 + max(task.number for task in soma.all_tasks) < time.time() * 1000


def test_slabs_hold_a_bounded_number_of_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However they are spread: few in the first cells, many in the last."""
    schema = AtlasSchema((PROTEIN,), (CELL_TYPE,))
    few, many = np.zeros((8_192, 20), np.int32), np.ones((4_100, 20), np.int32)
    few[:, 0] = 1
    chunks = []
    for counts in (few, many):
        cells = cells_of(len(counts), seed=0, schema=schema)
        drawn = (csr_matrix(counts),)
        chunks.append(GeneratedCells(drawn, cells.labels, cells.log_size_factor, cells.latent))
    source = GeneratedAtlas.open(write_atlas(tmp_path / "atlas.zarr", chunks, schema=schema))
    monkeypatch.setattr(soma_tasks, "COUNTS_AT_ONCE", 50_000)
    slabs = [(task.begin, task.end) for task in all_soma_tasks(source) if task.kind == "counts"]
    # A tile of many has 40,960: with the 8,192 of all few, one fits.
    assert slabs == [(0, 10_240), (10_240, 12_292)]
    monkeypatch.setattr(soma_tasks, "COUNTS_AT_ONCE", 10_000)
    slabs = [(task.begin, task.end) for task in all_soma_tasks(source) if task.kind == "counts"]
    assert slabs == [(0, 8_192), (8_192, 10_240), (10_240, 12_288), (12_288, 12_292)]


def test_the_work_directory_of_another_is_refused(atlas: Path, tmp_path: Path) -> None:
    out = tmp_path / "atlas.soma"
    soma = begun(atlas, out)
    soma.writer.run(soma.tasks()[0])
    other = write_atlas(tmp_path / "other.zarr", [CHUNKS[1]], schema=SCHEMA)
    with pytest.raises(FileExistsError, match=r"unfinished experiment of another atlas than .*other\.zarr"):
        write_soma(other, out)
    assert len(begun(atlas, out).tasks()) == len(soma.all_tasks) - 1
    theirs = tmp_path / "thesis.soma.partial"
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match="was not begun as a SOMA experiment"):
        write_soma(atlas, tmp_path / "thesis.soma")
    assert [path.name for path in theirs.iterdir()] == ["thesis.tex"]
