"""The order that a store gets by itself: what is promised of orders is in test_order.py."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from anndata import AnnData

import loaders.stores.csr_arrays
from loaders.layout import consolidate
from loaders.preparation.prepare import prepare
from loaders.preparation.prepared import Prepared
from loaders.streaming.granularity import order_of
from loaders.streaming.stream import CellStream
from tests.loaders.conftest import make_atlas, write_as


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> tuple[AnnData, Prepared]:
    """6,000 cells of a SOMA experiment read in place: slabs of 2,048, each with training cells."""
    path = tmp_path_factory.mktemp("granularity")
    atlas = make_atlas(n_cells=6_000, n_genes=12)
    return atlas, prepare(write_as(atlas, "soma", path), path / "out", progress=False)


def test_cells_that_fit_into_memory_come_from_anywhere(experiment: tuple[AnnData, Prepared]) -> None:
    _, prepared = experiment
    assert prepared.is_random_access
    assert order_of(prepared, prepared.rows("train"), 64, 0).blocks is None


def test_packed_cells_come_from_anywhere(prepared: Prepared) -> None:
    assert prepared.slab_cells == 1
    assert order_of(prepared, prepared.rows("train"), 64, 0).blocks is None


def test_blocks_are_the_slabs_of_the_store_whatever_the_split_leaves_of_them(
    experiment: tuple[AnnData, Prepared],
) -> None:
    _, prepared = experiment
    rows = prepared.rows("train")
    blocks = order_of(prepared, rows, 64, 0, granularity="blocks").blocks
    assert blocks is not None
    slabs = prepared.source_rows[rows] // 2_048
    assert blocks.begins.tolist() == [0, *(np.flatnonzero(np.diff(slabs)) + 1).tolist(), len(rows)]


def test_lanes_are_as_many_slabs_as_the_store_keeps_decoded(
    experiment: tuple[AnnData, Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, prepared = experiment
    rows = prepared.rows("train")
    monkeypatch.setattr(prepared._store, "kept_cells", 5_999)
    order = order_of(prepared, rows, 64, 0)
    # Three quarters of 5,999 cells are two slabs.
    assert order.n_lanes == 2
    assert order.blocks is not None
    assert order_of(prepared, rows, 64, 0, lanes=8).n_lanes == 8


def test_a_chunk_is_decoded_once_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cache of a tenth of the atlas, and the first batch's chunks before all others."""
    atlas = make_atlas(n_cells=12_000, n_genes=60)
    source = write_as(atlas, "zarr_v3", tmp_path)
    counts = zarr.open_group(source / "X", mode="r+", use_consolidated=False)
    for name in ("data", "indices"):
        attributes, values = dict(counts[name].attrs), counts[name][...]
        counts.create_array(name, data=values, chunks=(2_000,), overwrite=True).attrs.update(attributes)
    consolidate(source)
    monkeypatch.setattr(loaders.stores.csr_arrays, "CACHE_BYTES", 8 * atlas.X.nnz // 10)
    prepared = prepare(source, tmp_path / "out", min_cells_per_gene=0, progress=False)
    assert not prepared.is_random_access
    decoded: list[int] = []
    files = prepared._store.stores[0]._csr.data._files
    read = files.read
    monkeypatch.setattr(files, "read", lambda at, n: decoded.extend(range(at, at + n)) or read(at, n))
    stream = CellStream(prepared, split="all", batch_cells=64, epochs=1)
    np.testing.assert_array_equal(np.sort(np.concatenate([b.rows for b in stream])), np.arange(12_000))
    n_chunks = -(-atlas.X.nnz // 2_000)
    assert len(set(decoded)) == n_chunks
    # Cells at the edge of a block, and of a lane, have their chunk decoded again.
    assert len(decoded) < 2.5 * n_chunks


def test_an_unknown_granularity_is_refused(prepared: Prepared) -> None:
    with pytest.raises(ValueError, match="one of auto, uniform, blocks, not 'random'"):
        CellStream(prepared, batch_cells=64, granularity="random")
