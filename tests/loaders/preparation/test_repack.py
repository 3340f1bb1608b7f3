"""What `prepare` copies, by codec: the same cells and splits, shuffled, and every damage to it is told."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import zarr
from anndata import AnnData

from loaders.arrays import mapped
from loaders.arrays.mapped import MappedArray, chunk_path
from loaders.layout import CODECS, Codec
from loaders.preparation.prepare import prepare
from loaders.preparation.prepared import Prepared
from tests.loaders.conftest import make_atlas, write_as
from tests.tree_bytes import tree_bytes


def repacked(source: Any, out: Path, codec: Codec = "none", **settings: Any) -> Prepared:
    return prepare(source, out, labels=["cell_type"], repack=True, codec=codec, progress=False, **settings)


def names_by_split(prepared: Prepared) -> dict[str, set[str]]:
    return {name: set(prepared.to_anndata(name).obs_names) for name in ("train", "validation", "test")}


@pytest.mark.parametrize("codec", CODECS)
def test_shuffled_cells_are_the_cells_of_the_source(
    codec: Codec, prepared: Prepared, atlas: AnnData, tmp_path: Path
) -> None:
    made = repacked(write_as(atlas, "h5ad", tmp_path), tmp_path / "out", codec)
    assert sorted(made.source_rows.tolist()) == list(range(atlas.n_obs))
    assert np.abs(np.diff(made.source_rows)).mean() > atlas.n_obs / 5
    rows = np.random.default_rng(0).permutation(made.n_cells)
    sources = made.source_rows[rows]
    counts = made.read(rows)[0]
    np.testing.assert_array_equal(counts.toarray(), atlas.X[sources].toarray())
    assert counts.has_canonical_format
    np.testing.assert_array_equal(made.totals(rows), prepared.totals(sources))
    np.testing.assert_array_equal(made.labels(rows)[:, 0], prepared.labels(sources)[:, 0])
    assert names_by_split(made) == names_by_split(prepared)
    opened = anndata.read_zarr(made.path / "cells.zarr")
    np.testing.assert_array_equal(opened.X.toarray(), atlas.X[made.source_rows].toarray())
    assert list(opened.obs_names) == list(atlas.obs_names[made.source_rows])


@pytest.mark.parametrize("codec", CODECS)
def test_the_copy_does_not_depend_on_the_format_of_the_source(
    codec: Codec, atlas: AnnData, tmp_path: Path
) -> None:
    copies = []
    for form in ("h5ad", "zarr_v2", "zarr_dense", "memory"):
        (tmp_path / form).mkdir()
        made = repacked(write_as(atlas, form, tmp_path / form), tmp_path / form / "out", codec)
        copies.append(tree_bytes(made.path / "cells.zarr"))
        assert made.arrangement != made.digest
    assert all(copy == copies[0] for copy in copies[1:])


def test_the_arrangement_tells_orders_apart(prepared: Prepared, atlas: AnnData, tmp_path: Path) -> None:
    one, other = (
        prepare(
            atlas, tmp_path / name, labels=["cell_type", "donor"], repack=True, progress=False, codec=codec
        )
        for name, codec in (("one", "none"), ("other", "zstd"))
    )
    assert one.digest == other.digest == prepared.digest == prepared.arrangement
    assert one.arrangement == other.arrangement != prepared.arrangement


def test_without_repack_a_copy_keeps_the_order(atlas: AnnData, tmp_path: Path) -> None:
    source = write_as(atlas, "h5ad", tmp_path)
    made = prepare(source, tmp_path / "out", labels=["cell_type"], codec="zstd", progress=False)
    np.testing.assert_array_equal(made.source_rows, np.arange(atlas.n_obs))
    assert "codec zstd, in the order of the source" in made.summary["counts"]


@pytest.mark.parametrize("dtype", [None, np.int32, np.float32])
@pytest.mark.parametrize("codec", CODECS)
def test_counts_are_cast_where_asked(
    codec: Codec, dtype: type | None, atlas: AnnData, tmp_path: Path
) -> None:
    made = repacked(atlas, tmp_path / "out", codec)
    counts = made.read(np.arange(50), dtype=dtype)[0]
    assert counts.dtype == (dtype or np.uint8)
    assert counts.indices.dtype == counts.indptr.dtype == np.int32
    np.testing.assert_array_equal(counts.toarray(), atlas.X[made.source_rows[:50]].toarray())


def test_uncompressed_counts_are_raw_files_of_a_valid_zarr(
    atlas: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "CHUNK", 3_000)
    made = repacked(atlas, tmp_path / "out", "none")
    matrix = zarr.open_group(made.path / "cells.zarr")["X"]
    files = list((made.path / "cells.zarr" / "X" / "indices" / "c").iterdir())
    assert len(files) == -(-matrix["indices"].shape[0] // matrix["indices"].chunks[0]) > 3
    assert isinstance(made._store._csr.indices, MappedArray)
    np.testing.assert_array_equal(
        made.read(made.rows("all"))[0].toarray(), atlas.X[made.source_rows].toarray()
    )


@pytest.mark.parametrize("codec", CODECS)
def test_threads_read_side_by_side(codec: Codec, atlas: AnnData, tmp_path: Path) -> None:
    made = repacked(atlas, tmp_path / "out", codec)
    batches = [np.random.default_rng(i).integers(0, made.n_cells, 300) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for rows, counts in zip(batches, pool.map(made.read, batches), strict=True):
            np.testing.assert_array_equal(counts[0].toarray(), atlas.X[made.source_rows[rows]].toarray())


def test_another_codec_for_the_same_place_is_refused(atlas: AnnData, tmp_path: Path) -> None:
    source = write_as(atlas, "h5ad", tmp_path)
    repacked(source, tmp_path / "out", "none")
    with pytest.raises(FileExistsError, match="was prepared with codec = none, and now codec = zstd"):
        repacked(source, tmp_path / "out", "zstd")
    with pytest.raises(ValueError, match="codec is one of none, zstd, not 'gzip'"):
        repacked(source, tmp_path / "other", "gzip")


@pytest.mark.parametrize("codec", CODECS)
def test_a_copy_that_was_damaged_or_exchanged_is_told(codec: Codec, atlas: AnnData, tmp_path: Path) -> None:
    made = repacked(atlas, tmp_path / "out", codec)
    array = zarr.open_group(made.path / "cells.zarr")["X/indices"]
    path = chunk_path(array, 0)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:20] + bytes([255]) + whole[21:]):
        path.write_bytes(damaged)
        # raw files are looked at when they are mapped, and each index when it is read
        with pytest.raises(ValueError, match=r"X/indices/c/0 (is corrupt|has .* bytes instead of)"):
            Prepared.open(made.path).read(np.arange(made.n_cells))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"X/indices/c/0 is missing"):
        Prepared.open(made.path).read(np.arange(made.n_cells))
    other = repacked(make_atlas(n_cells=90), tmp_path / "other", codec)
    (made.path / "cells.zarr").rename(tmp_path / "away")
    (other.path / "cells.zarr").rename(made.path / "cells.zarr")
    with pytest.raises(ValueError, match=r"cells.zarr has changed: it was .*'cells': 600.* and is .*90"):
        Prepared.open(made.path)
