"""The contract of a store, run over every kind; a new kind of store joins `FORMATS` of conftest.py.

What its identity sees is in test_identity.py, what damage is told in test_nothing_lost.py.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from scipy.sparse import csc_matrix, csr_matrix

from cfgen_scale.types import SchemaError
from loaders.arrays.blocks import BlockArray, BlockCache
from loaders.arrays.kept import Kept
from loaders.stores.annotations import AnnotationTable
from loaders.stores.opening import open_store
from loaders.stores.stacked_store import StackedStore
from loaders.stores.store import CellStore
from tests.loaders.conftest import FORMATS, PARTS, WITHOUT_OBS, make_atlas, write_as, write_obs_table

Write = Callable[..., Path]
STORED_AS = {"10x_h5": np.int32, "10x_mtx": np.int64, "packed_none": np.uint8, "packed_zstd": np.uint8}


@pytest.fixture(scope="module", params=FORMATS + PARTS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def store(form: str, atlas: AnnData, tmp_path_factory: pytest.TempPathFactory) -> CellStore:
    """The atlas in every form; where a form has no annotations of cells, with a table of them."""
    folder = tmp_path_factory.mktemp("store")
    store = open_store(write_as(atlas, form, folder))
    if form not in WITHOUT_OBS:
        return store
    table = write_obs_table(atlas, folder / "obs.csv")
    return AnnotationTable.read(table, ["donor", "cell_type"]).annotate([store])[0]


@pytest.mark.parametrize("rows", [[5], [0, 1, 2, 3], [599, 3, 77, 78, 4, 311], [], list(range(600))])
def test_rows_come_in_the_order_asked_for(
    store: CellStore, form: str, atlas: AnnData, rows: list[int]
) -> None:
    counts = store.read(np.array(rows, dtype=np.int64))
    assert counts.shape == (len(rows), atlas.n_vars)
    assert counts.has_sorted_indices
    assert counts.dtype == STORED_AS.get(form, atlas.X.dtype)
    np.testing.assert_array_equal(counts.toarray(), atlas.X[rows].toarray())


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_counts_come_in_the_type_asked_for(store: CellStore, atlas: AnnData, dtype: type) -> None:
    rows = np.array([599, 3, 77, 0])
    counts = store.read(rows, dtype=dtype)
    assert counts.dtype == dtype
    np.testing.assert_array_equal(counts.toarray(), atlas.X[rows].toarray())


def test_threads_read_what_one_would(store: CellStore, atlas: AnnData) -> None:
    asked = [np.random.default_rng(i).permutation(600)[:200] for i in range(12)]
    with ThreadPoolExecutor(4) as threads:
        for rows, counts in zip(asked, threads.map(store.read, asked), strict=True):
            np.testing.assert_array_equal(counts.toarray(), atlas.X[rows].toarray())


def test_names_and_features(store: CellStore, atlas: AnnData) -> None:
    assert store.n_cells == atlas.n_obs
    assert store.features == tuple(atlas.var_names)
    assert store.obs_names(3, 7).tolist() == list(atlas.obs_names[3:7])
    assert set(store.obs_columns) == set(atlas.obs.columns)


def test_an_empty_value_is_unlabelled(store: CellStore, atlas: AnnData) -> None:
    column = store.obs_column("cell_type")
    assert list(column.categories) == ["B cells", "T cells"]
    given = atlas.obs["cell_type"].to_numpy(dtype=object)
    expected = [-1 if value == "" else ["B cells", "T cells"].index(value) for value in given]
    assert column.codes.tolist() == expected
    assert column.isna().any()


def test_a_missing_column_is_refused_listing_those_there_are(store: CellStore) -> None:
    with pytest.raises(ValueError, match=r"no obs column 'tissue'. Its columns: donor, cell_type"):
        store.obs_column("tissue")


@pytest.mark.parametrize("written", ["h5ad", "zarr_v3", "memory"])
def test_a_layer_is_read_where_it_is_named(written: str, tmp_path: Path) -> None:
    atlas = make_atlas(n_cells=20)
    atlas.layers["raw"] = (atlas.X * 2).astype(np.int64)
    source = write_as(atlas, written, tmp_path)
    counts = open_store(source, layer="raw").read(np.arange(20))
    np.testing.assert_array_equal(counts.toarray(), atlas.X.toarray() * 2)
    with pytest.raises(ValueError, match=r"no layer 'counts'. Its layers: raw"):
        open_store(source, layer="counts")


@pytest.mark.parametrize("written", ["h5ad", "zarr_v3", "memory", "shards"])
def test_features_are_named_by_a_column_of_var_where_asked(written: str, tmp_path: Path) -> None:
    atlas = make_atlas(n_cells=40)
    atlas.var["symbol"] = pd.Categorical([f"symbol_{g}" for g in range(50)])
    source = write_as(atlas, written, tmp_path)
    assert open_store(source, feature_column="symbol").features[:2] == ("symbol_0", "symbol_1")
    with pytest.raises(ValueError, match=r"no var column 'gene'.*Its columns: symbol; without"):
        open_store(source, feature_column="gene")


def test_without_x_a_layer_must_be_named(tmp_path: Path) -> None:
    atlas = make_atlas(n_cells=20)
    bare = AnnData(obs=atlas.obs, var=atlas.var, layers={"raw": atlas.X})
    with pytest.raises(ValueError, match=r"has no X. Name the layer .* raw"):
        open_store(write_as(bare, "zarr_v3", tmp_path))


def test_counts_by_column_are_refused_with_the_remedy(tmp_path: Path) -> None:
    atlas = make_atlas(n_cells=20)
    atlas.X = csc_matrix(atlas.X)
    with pytest.raises(ValueError, match=r"X of .* is stored by column \(CSC\).*tocsr"):
        open_store(write_as(atlas, "zarr_v3", tmp_path))


def test_rows_with_repeated_or_unsorted_columns_are_made_canonical(tmp_path: Path) -> None:
    data, indices, indptr = np.float32([1, 2, 4, 8]), np.int32([3, 1, 3, 0]), np.int32([0, 3, 4])
    doubled = AnnData(csr_matrix((data, indices, indptr), shape=(2, 4)))
    counts = open_store(write_as(doubled, "h5ad", tmp_path)).read(np.array([0, 1]))
    assert counts.has_canonical_format
    assert counts.toarray().tolist() == [[0, 2, 0, 5], [8, 0, 0, 0]]


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is nothing at .*/absent\.h5ad"):
        open_store(tmp_path / "absent.h5ad")
    with pytest.raises(ValueError, match="is a folder without stores, not a store of cells"):
        open_store(tmp_path)
    (tmp_path / "table.csv").write_text("a,b")
    with pytest.raises(ValueError, match=r"is a \.csv file, not a store of cells"):
        open_store(tmp_path / "table.csv")
    (tmp_path / "text.h5ad").write_text("not HDF5")
    with pytest.raises(ValueError, match="is not an HDF5 file"):
        open_store(tmp_path / "text.h5ad")
    zarr.create_group(tmp_path / "group.zarr")
    with pytest.raises(ValueError, match="is not an AnnData store: it has no obs and no var"):
        open_store(tmp_path / "group.zarr")
    (tmp_path / "cut.zarr" / "obs").mkdir(parents=True)
    with pytest.raises(ValueError, match="is not an AnnData store: there is no Zarr group in it"):
        open_store(tmp_path / "cut.zarr")


def test_an_url_is_opened_by_zarr(tmp_path: Path) -> None:
    atlas = make_atlas(n_cells=20)
    path = write_as(atlas, "zarr_v3", tmp_path)
    store = open_store(f"file://{path}")
    np.testing.assert_array_equal(store.read(np.arange(20)).toarray(), atlas.X.toarray())


def test_stacked_stores_align_genes_by_name(tmp_path: Path) -> None:
    first, second = make_atlas(n_cells=30), make_atlas(n_cells=20, seed=1)
    var = second.var.iloc[::-1]
    mixed = AnnData(X=csr_matrix(second.X.toarray()[:, ::-1]), obs=second.obs, var=var)
    stores = [open_store(write_as(first, "zarr_v3", tmp_path)), open_store(mixed)]
    stacked = StackedStore(stores)
    rows = np.array([45, 3, 30, 29, 0, 49])
    expected = np.concatenate([first.X.toarray(), second.X.toarray()])[rows]
    counts = stacked.read(rows)
    np.testing.assert_array_equal(counts.toarray(), expected)
    assert counts.has_sorted_indices
    assert stacked.obs_names(28, 32).tolist() == [*first.obs_names[28:], *second.obs_names[:2]]
    donors = [*first.obs["donor"], *second.obs["donor"]]
    assert list(stacked.obs_column("donor")) == donors
    assert stacked.locate(31) == (stores[1], 1)


def test_stacked_stores_with_other_genes_are_refused() -> None:
    second = make_atlas(n_cells=20)
    second.var_names = [*second.var_names[:-1], "CD3D"]
    with pytest.raises(SchemaError, match="memory has gene 'CD3D' and memory has not"):
        StackedStore([open_store(make_atlas(n_cells=20)), open_store(second)])


def test_the_cache_of_chunks_stays_within_its_budget() -> None:
    array = zarr.create_array({}, data=np.arange(10_000, dtype=np.int64), chunks=(100,))
    cache: BlockCache = Kept(5 * 800)
    blocks = BlockArray(array, "a", cache)
    random = np.random.default_rng(0)
    for _ in range(20):
        places = np.sort(random.integers(0, 10_000, 50))
        np.testing.assert_array_equal(blocks.take(places), places)
    assert len(cache) == 5
