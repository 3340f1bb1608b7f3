from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy import sparse
from scipy.sparse import csr_matrix

from loaders import layout
from loaders.layout import (
    ShardAppender,
    create_array,
    create_atlas,
    create_csr,
    index_dtype,
    narrowest_unsigned,
)
from loaders.preparation.packed import PackedWriter


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [
        (0, np.uint8),
        (255, np.uint8),
        (256, np.uint16),
        (65_535, np.uint16),
        (65_536, np.uint32),
        (2**32, np.uint64),
    ],
)
def test_the_narrowest_dtype_holds_the_largest(largest: int, dtype: type) -> None:
    assert narrowest_unsigned(largest) == dtype


@pytest.mark.parametrize(
    ("nnz", "n_features", "dtype"),
    [
        (0, 0, np.int32),
        (2**31 - 1, 2**31 - 1, np.int32),
        (2**31, 10, np.int64),
        (10, 2**31, np.int64),
    ],
)
def test_indices_and_row_pointers_share_the_dtype_that_holds_both(
    nnz: int, n_features: int, dtype: type, tmp_path: Path
) -> None:
    assert index_dtype(nnz, n_features) == dtype
    x = create_csr(create_atlas(tmp_path / "a.zarr"), "X", shape=(3, n_features), nnz=nnz, largest_count=1)
    assert x["indices"].dtype == x["indptr"].dtype == dtype


@pytest.mark.parametrize("n_features", [200, 30_000, 70_000])
def test_counts_of_any_width_come_back_through_anndata(n_features: int, tmp_path: Path) -> None:
    counts = sparse.random(300, n_features, density=0.01, format="csr", random_state=0)
    counts.data = np.random.default_rng(0).integers(1, 70_000, counts.nnz).astype(np.float32)
    largest = int(counts.data.max())
    names = [f"gene_{g}" for g in range(n_features)]
    writer = PackedWriter(tmp_path / "atlas.zarr", features=names, nnz=counts.nnz, largest_count=largest)
    for start in range(0, 300, 70):
        writer.append(csr_matrix(counts[start : start + 70]))
    writer.finish(pd.DataFrame(index=pd.Index([f"cell_{i}" for i in range(300)], dtype=object)))
    atlas = anndata.read_zarr(tmp_path / "atlas.zarr")
    assert abs(atlas.X - counts).max() == 0
    assert list(atlas.var_names) == names
    stored = zarr.open_group(tmp_path / "atlas.zarr")
    assert stored["X"].attrs["shape"] == [300, n_features]
    assert stored["X/indices"].dtype == stored["X/indptr"].dtype == np.int32
    assert stored["X/data"].dtype == np.uint32


@pytest.mark.parametrize("announced", [1, 3])
def test_another_number_of_counts_than_announced_is_our_own_mistake(announced: int, tmp_path: Path) -> None:
    writer = PackedWriter(tmp_path / "a.zarr", features=["a", "b"], nnz=announced, largest_count=1)
    writer.append(csr_matrix(np.eye(2, dtype=np.uint8)))
    with pytest.raises(AssertionError, match="another number of counts than announced"):
        writer.finish(pd.DataFrame(index=["0", "1"]))


def test_an_appender_writes_whole_shards_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "CHUNK", 10)
    monkeypatch.setattr(layout, "SHARD", 40)
    array = create_array(create_atlas(tmp_path / "a.zarr"), "values", shape=(0,), dtype=np.uint16, gaps=True)
    values = np.random.default_rng(0).integers(0, 65_536, 173).astype(np.uint16)
    appender = ShardAppender(array)
    shards = []
    for piece in np.split(values, [0, 5, 39, 45, 125, 130]):
        appender.append(piece)
        shards.append(sum(1 for f in (tmp_path / "a.zarr" / "values").rglob("*") if f.is_file()) - 1)
    # with 0, 5, 39, 45, 125, 130 and 173 values behind it
    assert shards == [0, 0, 0, 1, 3, 3, 4]
    appender.flush()
    np.testing.assert_array_equal(array[...], values)


def test_an_atlas_is_few_files(tmp_path: Path) -> None:
    writer = PackedWriter(tmp_path / "atlas.zarr", features=["a", "b"], nnz=200_000, largest_count=1)
    for _ in range(50):
        writer.append(csr_matrix(np.tile(np.uint8([0, 1]), (4000, 1))))
    writer.finish(pd.DataFrame(index=pd.Index([str(i) for i in range(200_000)], dtype=object)))
    counts = [f for f in (tmp_path / "atlas.zarr" / "X").rglob("*") if f.is_file()]
    assert len(counts) == 7  # one shard and its metadata for data, indices and indptr; the group's
