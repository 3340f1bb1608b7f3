"""The local copy of a slow store: the same cells, each read once, whoever is killed or full in between."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from anndata import AnnData

from loaders.preparation.cell_cache import CELLS, PARTIAL
from loaders.preparation.prepare import prepare
from loaders.preparation.prepared import Prepared
from loaders.streaming.stream import CellStream
from tests.loaders.conftest import make_atlas, write_as

Counted = Callable[[Prepared], list[np.ndarray]]


@pytest.fixture(scope="module")
def in_place(tmp_path_factory: pytest.TempPathFactory) -> tuple[AnnData, Path]:
    """5,000 cells of a SOMA experiment, genes removed and a cell dropped."""
    path = tmp_path_factory.mktemp("in_place")
    atlas = make_atlas(n_cells=5_000, n_genes=20)
    counts = atlas.X.toarray()
    counts[17] = 0
    counts[:, 3] = 0
    atlas.X = type(atlas.X)(counts)
    labels = ["cell_type", "donor"]
    prepare(write_as(atlas, "soma", path), path / "out", labels=labels, min_cells_per_gene=1, progress=False)
    return atlas, path / "out"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Rows asked of the source, read by read."""

    def of(prepared: Prepared) -> list[np.ndarray]:
        reads: list[np.ndarray] = []
        read = prepared._store.read
        monkeypatch.setattr(
            prepared._store, "read", lambda rows, **how: reads.append(rows) or read(rows, **how)
        )
        return reads

    return of


def folder_of(cache: Path) -> Path:
    (folder,) = cache.iterdir()
    return folder / "rna"


@pytest.mark.parametrize("granularity", ["uniform", "blocks"])
def test_two_epochs_are_those_without_it_and_read_the_source_once(
    in_place: tuple[AnnData, Path], tmp_path: Path, counted: Counted, granularity: Any
) -> None:
    _, path = in_place
    cached = Prepared.open(path, cache=tmp_path)
    reads = counted(cached)
    how = {"split": "all", "batch_cells": 128, "granularity": granularity, "epochs": 2}
    streams = CellStream(Prepared.open(path), **how), CellStream(cached, **how)
    for expected, batch in zip(*streams, strict=True):
        np.testing.assert_array_equal(batch.rows, expected.rows)
        np.testing.assert_array_equal(batch.counts[0].toarray(), expected.counts[0].toarray())
    np.testing.assert_array_equal(np.sort(np.concatenate(reads)), cached.source_rows)


@pytest.mark.parametrize("written_as", ["zarr_v3", "soma"])
@pytest.mark.parametrize("how", ["in place", "cached", "packed"])
def test_zeros_that_a_source_stores_are_none_of_the_counts(written_as: str, how: str, tmp_path: Path) -> None:
    atlas = make_atlas(n_cells=200)
    without = prepare(
        write_as(atlas, "zarr_v3", tmp_path), tmp_path / "a", min_cells_per_gene=0, progress=False
    )
    stored = atlas.copy()
    everywhere = atlas.X.toarray()
    rows, columns = np.nonzero(everywhere + np.eye(*everywhere.shape))
    stored.X = type(atlas.X)((everywhere[rows, columns], (rows, columns)), shape=everywhere.shape)
    assert stored.X.nnz > atlas.X.nnz
    (tmp_path / "zeros").mkdir()
    source = write_as(stored, written_as, tmp_path / "zeros")
    prepare(source, tmp_path / "b", min_cells_per_gene=0, repack=how == "packed", progress=False)
    prepared = Prepared.open(tmp_path / "b", cache=tmp_path / "cache" if how == "cached" else None)
    assert prepared.digest == without.digest
    for _ in range(2):
        counts, expected = prepared.read(np.arange(200))[0], atlas.X[prepared.source_rows]
        assert counts.nnz == expected.nnz
        np.testing.assert_array_equal(counts.toarray(), expected.toarray())


def test_the_whole_copy_opens_in_anndata_and_needs_no_source(
    in_place: tuple[AnnData, Path], tmp_path: Path, counted: Counted
) -> None:
    atlas, path = in_place
    first = Prepared.open(path, cache=tmp_path)
    first.read(np.arange(100))
    assert (folder_of(tmp_path) / PARTIAL).exists()
    assert not (folder_of(tmp_path) / CELLS).exists()
    first.read(np.arange(first.n_cells))
    copy = anndata.read_zarr(folder_of(tmp_path) / CELLS)
    expected = atlas[copy.obs_names, copy.var_names]
    assert copy.shape == (4_999, 19)
    np.testing.assert_array_equal(copy.X.toarray(), expected.X.toarray())
    given = expected.obs["cell_type"].astype(str).replace("", np.nan)
    assert (copy.obs["cell_type"].astype(object).fillna("?") == given.fillna("?")).all()
    again = Prepared.open(path, cache=tmp_path)
    reads = counted(again)
    np.testing.assert_array_equal(
        again.read(np.array([7, 3]))[0].toarray(), first.read(np.array([7, 3]))[0].toarray()
    )
    assert not reads


KILLED = """
import os, sys
import numpy as np
from loaders.preparation.prepared import Prepared

prepared = Prepared.open(sys.argv[1], cache=sys.argv[2])
prepared.read(np.arange(1000))
write = prepared._counts[0].cache._data.write
def dying(begin, values):
    write(begin, values[: len(values) // 2])
    os.kill(os.getpid(), 9)
prepared._counts[0].cache._data.write = dying
prepared.read(np.arange(prepared.n_cells))
"""


def test_what_a_killed_process_had_copied_is_kept_and_the_rest_is_whole(
    in_place: tuple[AnnData, Path], tmp_path: Path, counted: Counted
) -> None:
    _, path = in_place
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(tmp_path)], timeout=120)
    assert done.returncode == -9
    prepared = Prepared.open(path, cache=tmp_path)
    assert 0 < prepared._counts[0].cache.filled < 1
    reads = counted(prepared)
    everything = np.arange(prepared.n_cells)
    expected = Prepared.open(path).read(everything)[0]
    np.testing.assert_array_equal(prepared.read(everything)[0].toarray(), expected.toarray())
    assert 0 < len(np.concatenate(reads)) < prepared.n_cells
    assert (folder_of(tmp_path) / CELLS).exists()


HALF = """
import sys
from loaders.preparation.prepared import Prepared
from loaders.streaming.stream import CellStream

prepared = Prepared.open(sys.argv[1], cache=sys.argv[2])
stream = CellStream(prepared, split="all", batch_cells=64, rank=int(sys.argv[3]), world=2, epochs=2)
print(sum(int(batch.counts[0].sum()) for batch in stream))
"""


def test_two_processes_fill_one_copy(in_place: tuple[AnnData, Path], tmp_path: Path) -> None:
    _, path = in_place
    both = [
        subprocess.Popen(
            [sys.executable, "-c", HALF, str(path), str(tmp_path), str(rank)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    totals = [int(process.communicate(timeout=120)[0]) for process in both]
    prepared = Prepared.open(path)
    everything = np.arange(prepared.n_cells)
    assert sum(totals) == 2 * int(prepared.totals(everything).sum())
    copy = anndata.read_zarr(folder_of(tmp_path) / CELLS)
    np.testing.assert_array_equal(copy.X.toarray(), prepared.read(everything)[0].toarray())


def test_what_was_not_whole_before_the_machine_started_again_is_not_trusted(
    in_place: tuple[AnnData, Path], tmp_path: Path
) -> None:
    _, path = in_place
    Prepared.open(path, cache=tmp_path).read(np.arange(1000))
    (folder_of(tmp_path) / "boot").write_text("another")
    assert Prepared.open(path, cache=tmp_path)._counts[0].cache.filled == 0


FULL = """
import resource, sys
import numpy as np
from loaders.preparation.prepared import Prepared

prepared = Prepared.open(sys.argv[1], cache=sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    prepared.read(np.arange(prepared.n_cells))
except OSError as error:
    print(error)
    print("filled", prepared._counts[0].cache.filled)
"""


def test_a_full_disk_is_told_and_marks_nothing(in_place: tuple[AnnData, Path], tmp_path: Path) -> None:
    _, path = in_place
    command = [sys.executable, "-c", FULL, str(path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "make room, name another directory, or leave the cache out" in done.stdout
    assert str(tmp_path) in done.stdout
    assert float(done.stdout.split()[-1]) < 1


def test_a_source_that_gives_other_counts_than_it_was_prepared_with_is_told(
    in_place: tuple[AnnData, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = in_place
    prepared = Prepared.open(path, cache=tmp_path)
    read = prepared._store.read
    monkeypatch.setattr(prepared._store, "read", lambda rows, **how: read(rows[::-1], **how))
    with pytest.raises(ValueError, match="other genes than when the atlas was prepared"):
        prepared.read(np.arange(100))
