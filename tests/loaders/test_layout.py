from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy import sparse
from scipy.sparse import csr_matrix

from loaders import layout
from loaders.layout import ShardAppender, create_array, create_atlas, index_dtype, narrowest_unsigned
from loaders.packed import PackedWriter


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
    assert index_dtype(largest + 1) == dtype


@pytest.mark.parametrize("n_features", [200, 30_000, 70_000])
def test_counts_of_any_width_come_back_through_anndata(n_features: int, tmp_path: Path) -> None:
    counts = sparse.random(300, n_features, density=0.01, format="csr", random_state=0)
    counts.data = np.random.default_rng(0).integers(1, 70_000, counts.nnz).astype(np.float32)
    largest = int(counts.data.max())
    names = [f"gene_{g}" for g in range(n_features)]
    writer = PackedWriter(tmp_path / "atlas.zarr", features=names, largest_count=largest)
    for start in range(0, 300, 70):
        writer.append(csr_matrix(counts[start : start + 70]))
    writer.finish(pd.DataFrame(index=pd.Index([f"cell_{i}" for i in range(300)], dtype=object)))
    atlas = anndata.read_zarr(tmp_path / "atlas.zarr")
    assert abs(atlas.X - counts).max() == 0
    assert list(atlas.var_names) == names
    stored = zarr.open_group(tmp_path / "atlas.zarr")
    assert stored["X/indices"].dtype == index_dtype(n_features)
    assert stored["X/data"].dtype == np.uint32


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
    writer = PackedWriter(tmp_path / "atlas.zarr", features=["a", "b"], largest_count=1)
    for _ in range(50):
        writer.append(csr_matrix(np.tile(np.uint8([0, 1]), (4000, 1))))
    writer.finish(pd.DataFrame(index=pd.Index([str(i) for i in range(200_000)], dtype=object)))
    counts = [f for f in (tmp_path / "atlas.zarr" / "X").rglob("*") if f.is_file()]
    assert len(counts) == 7  # one shard and its metadata for data, indices and indptr; the group's
