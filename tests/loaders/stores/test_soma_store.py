"""SOMA experiments beyond the contract of test_store.py: slabs, filters, names, threads, S3, refusals."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tiledbsoma
from anndata import AnnData
from scipy.sparse import csr_matrix

from loaders.preparation.prepare import prepare
from loaders.preparation.prepared import Prepared
from loaders.stores.opening import open_store
from loaders.stores.soma_slabs import CountSlabs
from loaders.stores.soma_store import is_experiment
from loaders.stores.store import CellStore
from loaders.streaming.stream import CellStream
from tests.loaders.conftest import make_atlas, write_as
from tests.loaders.experiments import write_experiment
from tests.loaders.s3_server import serve_s3

Experiment = Callable[..., Path]
JOINIDS = np.arange(8_000) + np.arange(8_000) // 1_000 * 900


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[AnnData, Path]:
    """An atlas of seven slabs, its cells at joinids with gaps, its genes at every second one."""
    atlas = make_atlas(n_cells=8_000, n_genes=12)
    path = tmp_path_factory.mktemp("large") / "experiment"
    return atlas, write_experiment(atlas, path, cells=JOINIDS, genes=3 + 2 * np.arange(12))


@pytest.fixture
def small(tmp_path: Path) -> Experiment:
    """Write an atlas of 60 cells with the options given; returns the path."""

    def written(**options: object) -> Path:
        return write_experiment(make_atlas(n_cells=60), tmp_path / "experiment", **options)

    return written


def read_all(store: CellStore) -> np.ndarray:
    return store.read(np.arange(store.n_cells)).toarray()


def test_rows_over_many_slabs_come_whole_and_in_the_order_asked_for(large: tuple[AnnData, Path]) -> None:
    atlas, path = large
    store = open_store(path)
    assert (store.n_cells, store.features) == (8_000, tuple(atlas.var_names))
    random = np.random.default_rng(0)
    for rows in (random.permutation(8_000), random.integers(0, 8_000, 50), np.arange(2_000, 7_500)):
        counts = store.read(rows)
        np.testing.assert_array_equal(counts.toarray(), atlas.X[rows].toarray())
        assert counts.has_canonical_format
        assert counts.indices.dtype == np.int32


def test_slabs_kept_stay_within_the_budget_and_are_not_read_again(
    large: tuple[AnnData, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    atlas, path = large
    queries: list[object] = []
    read = tiledbsoma.SparseNDArray.read
    monkeypatch.setattr(
        tiledbsoma.SparseNDArray, "read", lambda self, *args: queries.append(args) or read(self, *args)
    )
    store = open_store(path)
    for _ in range(3):
        store.read(np.arange(8_000))
    assert len(queries) == 7  # the slabs
    with tiledbsoma.SparseNDArray.open(f"{path}/ms/RNA/X/counts") as array:
        nothing_kept = CountSlabs(array, JOINIDS, 3 + 2 * np.arange(12), budget_bytes=0)
        for _ in range(2):
            counts = nothing_kept.take(np.arange(8_000))
            np.testing.assert_array_equal(counts.toarray(), atlas.X.toarray())
    assert len(queries) == 21


def test_rows_of_many_slabs_are_taken_some_slabs_at_a_time(
    large: tuple[AnnData, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.stores.soma_slabs.SLABS_TOGETHER", 2)
    atlas, path = large
    rows = np.random.default_rng(3).permutation(8_000)[:500]
    np.testing.assert_array_equal(open_store(path).read(rows).toarray(), atlas.X[rows].toarray())


def test_threads_read_what_one_would(large: tuple[AnnData, Path]) -> None:
    atlas, path = large
    store = open_store(path)
    random = np.random.default_rng(1)
    asked = [random.integers(0, 8_000, 300) for _ in range(40)]
    with ThreadPoolExecutor(2) as threads:
        for rows, counts in zip(asked, threads.map(store.read, asked), strict=True):
            np.testing.assert_array_equal(counts.toarray(), atlas.X[rows].toarray())


@pytest.mark.parametrize("condition", ['cell_type == "B cells"', "donor in ['donor_03', 'donor_31']"])
def test_a_filter_takes_the_cells_for_which_it_holds(large: tuple[AnnData, Path], condition: str) -> None:
    atlas, path = large
    expected = atlas[atlas.obs.query(condition).index].copy()
    store = open_store(path, obs_filter=condition)
    assert 0 < store.n_cells == expected.n_obs < atlas.n_obs
    np.testing.assert_array_equal(read_all(store), expected.X.toarray())
    assert store.obs_names(0, store.n_cells).tolist() == list(expected.obs_names)
    assert store.obs_names(5, 9).tolist() == list(expected.obs_names[5:9])
    assert list(store.obs_column("donor")) == list(expected.obs["donor"])
    assert store.identity() != open_store(path).identity()


def test_columns_of_every_type_are_read_as_from_h5ad(tmp_path: Path) -> None:
    atlas = make_atlas(n_cells=60)
    atlas.obs["n"] = np.arange(60) % 3
    atlas.obs["primary"] = np.arange(60) % 2 == 0
    atlas.obs["note"] = np.array(["a", "b", ""], dtype=object)[np.arange(60) % 3]
    soma, h5ad = (open_store(write_as(atlas, form, tmp_path)) for form in ("soma", "h5ad"))
    for name in ("n", "primary", "note", "donor"):
        one, other = soma.obs_column(name), h5ad.obs_column(name)
        assert list(one.categories) == list(other.categories)
        np.testing.assert_array_equal(one.codes, other.codes)
    assert open_store(tmp_path / "soma", obs_filter="primary == True and n == 1").n_cells == 10


def test_cells_without_names_are_called_by_their_joinids(small: Experiment) -> None:
    store = open_store(small(cell_names="barcode", cells=7 * np.arange(60)))
    assert store.obs_names(1, 4).tolist() == ["7", "14", "21"]
    assert store.obs_columns == ("barcode", "donor", "cell_type")


def test_the_names_recorded_by_tiledbsoma_io_are_used(small: Experiment) -> None:
    path = small(cell_names="barcode")
    with tiledbsoma.DataFrame.open(f"{path}/obs", "w") as obs:
        obs.metadata["soma_dataframe_original_index_name"] = '"barcode"'
    assert open_store(path).obs_names(1, 3).tolist() == ["cell_0_1", "cell_0_2"]


def test_the_column_of_feature_names_can_be_chosen(small: Experiment, tmp_path: Path) -> None:
    atlas = make_atlas(n_cells=60)
    atlas.var["symbol"] = [f"symbol_{g}" for g in range(50)]
    path = write_experiment(atlas, tmp_path / "named", gene_names="feature_id")
    assert open_store(path).features[:2] == ("gene_0", "gene_1")
    chosen = open_store(path, feature_column="symbol")
    assert chosen.features[:2] == ("symbol_0", "symbol_1")
    assert chosen.identity()["feature_column"] == "symbol"
    with pytest.raises(ValueError, match=r"no var column 'gene'.*Its columns: feature_id, symbol"):
        open_store(path, feature_column="gene")
    with pytest.raises(ValueError, match=r"name the var column that holds.*Its columns: ensembl"):
        open_store(small(gene_names="ensembl"))


def test_measurement_and_layer_are_chosen_or_refused_listing_those_there_are(small: Experiment) -> None:
    counts = make_atlas(n_cells=60).X
    layers = {"raw": csr_matrix(counts, dtype=np.int64) * 2, "normalised": counts}
    path = small(measurement="ATAC", layers=layers)
    with pytest.raises(ValueError, match=r"no measurement 'RNA'. Its measurements: ATAC"):
        open_store(path)
    with pytest.raises(ValueError, match=r"has 2 layers in X: name the one.*Its layers: normalised, raw"):
        open_store(path, measurement="ATAC")
    with pytest.raises(ValueError, match=r"no layer 'counts'. Its layers: normalised, raw"):
        open_store(path, measurement="ATAC", layer="counts")
    store = open_store(path, measurement="ATAC", layer="raw")
    assert store.read(np.arange(3)).dtype == np.int64
    np.testing.assert_array_equal(read_all(store), counts.toarray() * 2)


def test_a_dense_layer_is_refused(small: Experiment) -> None:
    path = small()
    with tiledbsoma.Collection.open(f"{path}/ms/RNA/X", "w") as layers:
        layers.add_new_dense_ndarray("dense", type=pa.float32(), shape=(60, 50))
    with pytest.raises(ValueError, match=r"layer 'dense' of .* is a SOMADenseNDArray"):
        open_store(path, layer="dense")


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("tissue == 'lung'", "Column tissue does not exist.*Its columns: obs_id, donor, cell_type"),
        ("donor = 'donor_01'", "Could not parse"),
        ("donor == 1", "incompatible function arguments"),
        ("", "Could not parse"),
        ("donor == 'nobody'", "has no cells to read: the obs filter .* selects none"),
    ],
)
def test_a_filter_that_does_not_work_is_refused_with_what_tiledb_says(
    small: Experiment, condition: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        open_store(small(), obs_filter=condition)
    assert "At:" not in str(refused.value)


def test_what_is_no_experiment_is_refused(small: Experiment) -> None:
    path = small()
    for part in ("obs", "ms/RNA"):
        with pytest.raises(ValueError, match=r"cannot be opened as a SOMA experiment: .*holds obs and ms"):
            open_store(path / part)
    with pytest.raises(ValueError, match=r"is no SOMA experiment that TileDB can reach.*no Zarr group"):
        open_store(f"file://{path.parent}")


def test_options_of_soma_are_refused_elsewhere(tmp_path: Path) -> None:
    atlas = make_atlas(n_cells=60)
    with pytest.raises(ValueError, match=r"obs_filter = 'n == 1' is an option of SOMA.*an AnnData in memory"):
        open_store(atlas, obs_filter="n == 1")
    with pytest.raises(ValueError, match=r"measurement = 'RNA' is an option of SOMA experiments, and .*h5ad"):
        prepare(write_as(atlas, "h5ad", tmp_path), tmp_path / "out", measurement="RNA", progress=False)


@pytest.mark.parametrize("part", ["obs", "ms/RNA/var"])
def test_obs_or_var_beyond_the_matrix_is_refused(small: Experiment, tmp_path: Path, part: str) -> None:
    path = small()
    larger = write_experiment(make_atlas(n_cells=61, n_genes=51), tmp_path / "larger")
    shutil.rmtree(path / part)
    shutil.copytree(larger / part, path / part)
    with pytest.raises(
        ValueError, match=r"(obs has joinid 60 .* ends at 59|var has joinid 50 .* ends at 49)"
    ):
        open_store(path)


def test_counts_of_a_gene_that_var_lacks_are_refused(small: Experiment) -> None:
    path = small(genes=np.arange(50) + 1)
    with tiledbsoma.SparseNDArray.open(f"{path}/ms/RNA/X/counts", "w") as counts:
        one = np.array([0], dtype=np.int64)
        counts.write(pa.table({"soma_dim_0": one, "soma_dim_1": one, "soma_data": np.float32([1])}))
    with pytest.raises(ValueError, match="columns that no row of var describes"):
        open_store(path).read(np.arange(3))


@pytest.mark.parametrize("granularity", ["uniform", "blocks"])
def test_a_stream_gives_what_direct_reads_give(
    large: tuple[AnnData, Path], tmp_path: Path, granularity: str
) -> None:
    atlas, path = large
    made = prepare(path, tmp_path / "out", labels=["cell_type"], min_cells_per_gene=0, progress=False)
    stream = CellStream(made, batch_cells=512, granularity=granularity, epochs=1)
    for batch in stream:
        np.testing.assert_array_equal(batch.counts[0].toarray(), atlas.X[batch.rows].toarray())
    assert stream.state == len(made.rows("train"))


def test_a_filtered_experiment_prepares_as_the_same_cells_of_an_h5ad(tmp_path: Path) -> None:
    atlas = make_atlas(n_cells=200)
    chosen = atlas[atlas.obs["cell_type"] == "T cells"].copy()
    experiment = write_experiment(atlas, tmp_path / "experiment")
    options = {"obs_filter": 'cell_type == "T cells"'}
    common = {"labels": ["donor"], "min_cells_per_gene": 1, "progress": False}
    copied = prepare(write_as(chosen, "h5ad", tmp_path), tmp_path / "copied", **common)
    for repack in (False, True):
        out = tmp_path / f"repack_{repack}"
        made = prepare(experiment, out, **common, **options, repack=repack)
        assert made.digest == copied.digest
        again = Prepared.open(out)
        counts = again.read(np.argsort(again.source_rows))[0]
        np.testing.assert_array_equal(counts.toarray(), chosen.X.toarray())
        assert set(again.to_anndata("train").obs_names) == set(copied.to_anndata("train").obs_names)
    with pytest.raises(FileExistsError, match=r"was prepared with soma = .*and now soma = \{\}"):
        prepare(experiment, tmp_path / "repack_False", **common)


def test_an_experiment_that_has_grown_or_vanished_is_told(tmp_path: Path) -> None:
    path = write_experiment(make_atlas(n_cells=60), tmp_path / "experiment")
    out = prepare(path, tmp_path / "out", min_cells_per_gene=0, progress=False).path
    assert Prepared.open(out).manifest["sources"][0]["uri"] == str(path)
    shutil.rmtree(path)
    write_experiment(make_atlas(n_cells=61), path)
    with pytest.raises(ValueError, match=r"has changed: it was .*'cells': 60"):
        Prepared.open(out)
    shutil.rmtree(path)
    with pytest.raises(FileNotFoundError, match="has vanished"):
        Prepared.open(out)


def test_an_experiment_on_s3_is_read_through_tiledb(
    large: tuple[AnnData, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    atlas, path = large
    with serve_s3(path.parent) as endpoint:
        monkeypatch.setenv("TILEDB_VFS_S3_ENDPOINT_OVERRIDE", endpoint)
        monkeypatch.setenv("TILEDB_VFS_S3_SCHEME", "http")
        monkeypatch.setenv("TILEDB_VFS_S3_USE_VIRTUAL_ADDRESSING", "false")
        monkeypatch.setenv("TILEDB_VFS_S3_NO_SIGN_REQUEST", "true")
        store = open_store("s3://bucket/experiment")
        rows = np.array([7_000, 3, 4_500])
        assert (store.kind, store.uri) == ("soma", "s3://bucket/experiment")
        np.testing.assert_array_equal(store.read(rows).toarray(), atlas.X[rows].toarray())
        assert store.obs_names(0, 2).tolist() == list(atlas.obs_names[:2])
        assert not is_experiment("s3://bucket/nothing")
