"""The atlas is the same whoever assembles it, in whatever order, however often it was stopped."""

import errno
import functools
import io
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest

from loaders import layout
from loaders.atlases.assembly import Assembly, finish
from loaders.atlases.writer import PartialAtlas
from tests.loaders.generated import (
    SCHEMA,
    TWO_MODALITIES,
    begin_atlas,
    cells_of,
    latents_of,
    provenance_of,
    write_atlas,
)
from tests.tree_bytes import tree_bytes

CHUNKS = [cells_of(n, seed=n) for n in (90, 1, 137, 64)]
PROVENANCE = provenance_of(CHUNKS)


@pytest.fixture(autouse=True, scope="module")
def _small_shards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "CHUNK", 8)
        patch.setattr(layout, "SHARD", 8 * 256)
        patch.setattr(layout, "CHUNK_OF_CELLS", 16)
        patch.setattr(layout, "SHARD_OF_CELLS", 64)
        yield


@pytest.fixture(scope="module")
def whole(_small_shards: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return tree_bytes(write_atlas(tmp_path_factory.mktemp("whole") / "undisturbed.zarr", CHUNKS))


def assembly_of(out: Path) -> Assembly:
    partial = PartialAtlas.beside(out)
    if not partial.path.exists():
        begin_atlas(out, CHUNKS)
    return Assembly.of(partial, n_chunks=len(CHUNKS), schema=SCHEMA, provenance=PROVENANCE)


def test_tasks_in_any_order_twice_and_at_once_make_the_same_atlas(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "atlas.zarr"
    assembly = assembly_of(out)
    tasks = assembly.tasks()
    assert len(tasks) == 5 + 5  # 292 cells in shards of 64, 8,717 counts in shards of 2,048
    assert assembly.n_bytes == sum(task.n_bytes for task in tasks)
    shuffled = np.random.default_rng(0).permutation(np.repeat(np.arange(len(tasks)), 2))
    with ThreadPoolExecutor(4) as pool:
        copies = [pickle.loads(pickle.dumps((assembly, tasks[i]))) for i in shuffled]
        list(pool.map(lambda pair: pair[0].run(pair[1]), copies))
    assert assembly.tasks() == []
    assert tree_bytes(assembly.complete(out)) == whole
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("atlas")] == ["atlas.zarr"]


def test_as_many_cells_as_whole_shards(tmp_path: Path) -> None:
    # The last row pointer then is a shard of its own.
    chunks = [cells_of(64, seed=0), cells_of(64, seed=1)]
    out = tmp_path / "atlas.zarr"
    partial = begin_atlas(out, chunks)
    assembly = Assembly.of(partial, n_chunks=2, schema=SCHEMA, provenance=PROVENANCE)
    for task in reversed(assembly.tasks()):
        assembly.run(task)
    (out.with_name("atlas.zarr.partial") / "atlas.zarr/X/indptr/c/2").unlink()
    (missing,) = assembly.tasks()
    assembly.run(missing)
    atlas = anndata.read_zarr(assembly.complete(out))
    expected = np.concatenate([chunk.counts[0].toarray() for chunk in chunks])
    np.testing.assert_array_equal(atlas.X.toarray(), expected)


@pytest.mark.parametrize(
    "lost", ["X/data/c/1", "X/indices/c/0", "obs/cell_type/codes/c/2", "obsm/X_cfgen/c/0/0"]
)
@pytest.mark.parametrize("how", ["deleted", "cut off"])
def test_a_shard_that_was_lost_is_written_again(
    lost: str, how: str, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "atlas.zarr"
    assembly = assembly_of(out)
    for task in assembly.tasks():
        assembly.run(task)
    shard = assembly.partial.path / "atlas.zarr" / lost
    shard.unlink() if how == "deleted" else shard.write_bytes(shard.read_bytes()[:-1])
    assert len(assembly.tasks()) == 1
    with pytest.raises(RuntimeError, match=r"is not whole: task .* is not done"):
        assembly.complete(out)
    assert not out.exists()
    assert tree_bytes(finish_again(out)) == whole


def test_what_killed_workers_left_is_removed(tmp_path: Path, whole: dict[str, bytes]) -> None:
    out = tmp_path / "atlas.zarr"
    building = assembly_of(out).partial.path / "atlas.zarr"
    (building / "X/data/c").mkdir(parents=True)
    (building / "X/data/c/1.0123456789abcdef.partial").write_bytes(b"torn")
    (building / "SHA256SUMS").write_text("begun")
    assert tree_bytes(finish_again(out)) == whole


def test_another_provenance_begins_anew(tmp_path: Path, whole: dict[str, bytes]) -> None:
    out = tmp_path / "atlas.zarr"
    begin_atlas(out, CHUNKS)
    other = Assembly.of(PartialAtlas.beside(out), n_chunks=4, schema=SCHEMA, provenance={"plan": "another"})
    for task in other.tasks():
        other.run(task)
    assert tree_bytes(finish_again(out)) == whole


def finish_again(out: Path) -> Path:
    return finish(PartialAtlas.beside(out), out, n_chunks=4, schema=SCHEMA, provenance=PROVENANCE)


class Killed(BaseException):
    """What ends the process, for a test that goes on."""


class Renames:
    """Notes the names that files get, and ends the work before or after that of number ``moment``."""

    def __init__(self, patch: pytest.MonkeyPatch, moment: int | None = None, *, after: bool = False) -> None:
        self.names: list[str] = []
        self._moment, self._after = moment, after
        for name in ("replace", "rename"):
            patch.setattr(os, name, functools.partial(self._rename, getattr(os, name)))

    def _rename(self, rename: Callable[..., None], source: Any, target: Any) -> None:
        self.names.append(str(target))
        is_now = len(self.names) - 1 == self._moment
        if is_now and not self._after:
            raise Killed
        rename(source, target)
        if is_now:
            raise Killed


def moments(monkeypatch: pytest.MonkeyPatch, out: Path) -> list[int]:
    """All renames that say that something is done, and some of those of Zarr's files, which say nothing."""
    begin_atlas(out, CHUNKS)
    with monkeypatch.context() as patch:
        renames = Renames(patch)
        finish_again(out)
    said = [i for i, name in enumerate(renames.names) if name.endswith((".json", "SHA256SUMS", out.name))]
    ours = [i for i in said if not renames.names[i].endswith("zarr.json")]
    assert len(ours) == 1 + 2 + 2 + 1 + 1  # laid out, tasks, manifest, the atlas
    return sorted({*ours, *range(0, len(renames.names), 40)})


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_stopped_at_a_rename_and_run_again(
    after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "SHARD", 8 * 1024)
    monkeypatch.setattr(layout, "SHARD_OF_CELLS", 256)
    all_moments = moments(monkeypatch, tmp_path / "counted.zarr")
    whole = tree_bytes(tmp_path / "counted.zarr")
    for moment in all_moments:
        out = tmp_path / f"{moment}.zarr"
        begin_atlas(out, CHUNKS)
        with monkeypatch.context() as patch:
            Renames(patch, moment, after=after)
            with pytest.raises(Killed):
                finish_again(out)
        is_last = after and moment == all_moments[-1]
        assert out.exists() == is_last
        if not is_last:
            finish_again(out)
        assert tree_bytes(out) == whole, moment


def test_a_chunk_that_vanished_is_named(tmp_path: Path, whole: dict[str, bytes]) -> None:
    out = tmp_path / "atlas.zarr"
    partial = begin_atlas(out, CHUNKS)
    partial.chunk_file(2).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of the 4 chunks are missing .* the first is chunk 2\. Run"
    ):
        finish_again(out)
    assert not out.exists()
    partial.write_chunk(2, CHUNKS[2], SCHEMA, group=1)
    assert tree_bytes(finish_again(out)) == whole


def test_a_chunk_that_vanishes_while_it_is_assembled_is_named(tmp_path: Path) -> None:
    assembly = assembly_of(tmp_path / "atlas.zarr")
    assembly.partial.chunk_file(0).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"chunk .*000000-90-5-.* is missing\. Run the generation again"
    ):
        assembly.run(assembly.tasks()[0])


def test_a_damaged_chunk_is_named(tmp_path: Path, whole: dict[str, bytes]) -> None:
    out = tmp_path / "atlas.zarr"
    partial = begin_atlas(out, CHUNKS)
    chunk = partial.chunk_file(2)
    chunk.write_bytes(chunk.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"chunk .*000002.* is damaged \(.*\)\. Delete it\. Run"):
        finish_again(out)
    chunk.unlink()
    partial.write_chunk(2, CHUNKS[2], SCHEMA, group=1)
    assert tree_bytes(finish_again(out)) == whole


def test_chunks_of_another_content_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "atlas.zarr"
    begin_atlas(out, CHUNKS)
    with pytest.raises(ValueError, match="hold counts of 1 modalities and not of 2"):
        Assembly.of(PartialAtlas.beside(out), n_chunks=4, schema=TWO_MODALITIES, provenance={})
    with pytest.raises(ValueError, match="hold counts of 1 modalities and not of 0"):
        Assembly.of(PartialAtlas.beside(out), n_chunks=4, schema=SCHEMA, provenance={}, content="latents")
    PartialAtlas.beside(out).write_chunk(4, latents_of(CHUNKS[0]), SCHEMA, group=2)
    with pytest.raises(ValueError, match=r"000004-90-5.safetensors and .* are chunks of two atlases"):
        Assembly.of(PartialAtlas.beside(out), n_chunks=5, schema=SCHEMA, provenance={})


@pytest.mark.parametrize(
    ("where", "reached"),
    [("000002-", 0), ("atlas.zarr/var", 1), ("X/indices/c", 2), ("SHA256SUMS", 2)],
    ids=["chunk", "laying out", "shard", "manifest"],
)
def test_a_full_disk_is_said_and_the_same_again_completes(
    where: str, reached: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "atlas.zarr"
    with monkeypatch.context() as patch:
        fill_up(patch, where)
        with pytest.raises(
            OSError, match=r"No space left on device: .*zarr\.partial cannot grow.*same again"
        ):
            begin_and_finish(out)
    assert not out.exists()
    partial = PartialAtlas.beside(out)
    there = set(partial.chunks_there().tolist())
    assert (len(there) == 4) == (reached > 0)
    assert [(partial.path / name).exists() for name in ("laid_out.json", "done")] == [reached > 1] * 2
    for index in set(range(4)) - there:
        partial.write_chunk(index, CHUNKS[index], SCHEMA, group=index // 2)
    assert tree_bytes(finish_again(out)) == whole


def begin_and_finish(out: Path) -> None:
    begin_atlas(out, CHUNKS)
    finish_again(out)


def fill_up(patch: pytest.MonkeyPatch, where: str) -> None:
    """There is no room any more for files with ``where`` in their path."""

    class Full(io.FileIO):
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = io.open

    def opening(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        is_full = mode == "wb" and where in str(file)
        return Full(file, "w") if is_full else real(file, mode, *arguments, **options)

    patch.setattr("builtins.open", opening)
    patch.setattr(io, "open", opening)


def test_a_work_directory_without_its_atlas_begins_anew(tmp_path: Path, whole: dict[str, bytes]) -> None:
    out = tmp_path / "atlas.zarr"
    assembly = assembly_of(out)
    assembly.run(assembly.tasks()[0])
    shutil.rmtree(assembly.partial.path / "atlas.zarr/var")
    assert tree_bytes(finish_again(out)) == whole
