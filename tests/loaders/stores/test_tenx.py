"""Cell Ranger's files beyond the contract of test_store.py: versions, kinds of features, names, damage."""

import gzip
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import scanpy
from anndata import AnnData

from loaders.preparation.prepare import prepare
from loaders.stores.opening import open_store
from loaders.stores.store import CellStore
from tests.loaders.conftest import make_atlas
from tests.loaders.tenx_files import write_tenx_h5, write_tenx_mtx

KINDS = ["Gene Expression"] * 40 + ["Antibody Capture"] * 7 + ["Peaks"] * 3
# Two genes of one symbol, and a third whose own symbol is what the second would be called.
SYMBOLS = [*[f"gene_{g}" for g in range(46)], "TBCE", "TBCE", "TBCE-1", "MATR3"]


@pytest.fixture
def small() -> AnnData:
    return make_atlas(n_cells=60)


def read_all(store: CellStore) -> np.ndarray:
    return store.read(np.arange(store.n_cells)).toarray()


def test_version_2_is_read(small: AnnData, tmp_path: Path) -> None:
    for path in (
        write_tenx_h5(small, tmp_path / "v2.h5", genomes=["hg19"]),
        write_tenx_mtx(small, tmp_path / "v2", version=2),
    ):
        store = open_store(path)
        assert store.features == tuple(small.var_names)
        assert store.obs_names(0, 3).tolist() == list(small.obs_names[:3])
        np.testing.assert_array_equal(read_all(store), small.X.toarray())


def test_a_file_of_several_genomes_is_refused(small: AnnData, tmp_path: Path) -> None:
    path = write_tenx_h5(small, tmp_path / "both.h5", genomes=["hg19", "mm10"])
    with pytest.raises(ValueError, match=r"each of 2 genomes \(hg19, mm10\).*read_10x_h5"):
        open_store(path)


@pytest.mark.parametrize("form", ["h5", "mtx"])
def test_genes_alone_are_taken_and_the_rest_is_told(form: str, small: AnnData, tmp_path: Path) -> None:
    write = write_tenx_h5 if form == "h5" else write_tenx_mtx
    shuffled = np.random.default_rng(0).permutation(50)
    kinds = np.array(KINDS)[shuffled].tolist()
    path = write(small, tmp_path / f"multi.{form}", kinds=kinds)
    store = open_store(path)
    genes = np.flatnonzero(np.array(kinds) == "Gene Expression")
    assert store.features == tuple(small.var_names[genes])
    np.testing.assert_array_equal(read_all(store), small.X.toarray()[:, genes])
    made = prepare(path, tmp_path / "out", min_cells_per_gene=0, progress=False)
    assert "7 features of 'Antibody Capture'" in made.summary["notes"]
    assert "3 features of 'Peaks'" in made.summary["notes"]
    without = write(small, tmp_path / f"peaks.{form}", kinds=["Peaks"] * 50)
    with pytest.raises(ValueError, match=r"no features of 'Gene Expression'\. It has: 50 of 'Peaks'"):
        open_store(without)


def test_symbols_are_made_unique_as_scanpy_does(small: AnnData, tmp_path: Path) -> None:
    path = write_tenx_h5(small, tmp_path / "symbols.h5", symbols=SYMBOLS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)
        theirs = scanpy.read_10x_h5(path)
        theirs.var_names_make_unique()
    store = open_store(path)
    assert store.features == tuple(theirs.var_names)
    assert len(set(store.features)) == 50
    np.testing.assert_array_equal(read_all(store), theirs.X.toarray())


@pytest.mark.parametrize("form", ["h5", "mtx"])
def test_genes_can_be_called_by_their_ids(form: str, small: AnnData, tmp_path: Path) -> None:
    path = (write_tenx_h5 if form == "h5" else write_tenx_mtx)(small, tmp_path / f"ids.{form}")
    assert open_store(path, feature_column="id").features[:2] == ("id_of_gene_0", "id_of_gene_1")
    assert open_store(path, feature_column="name").features[0] == "gene_0"
    with pytest.raises(ValueError, match=r"no feature column 'symbol'.*'id' .* and 'name'"):
        open_store(path, feature_column="symbol")
    with pytest.raises(ValueError, match=r"layer = 'raw' is an option of AnnData and SOMA"):
        open_store(path, layer="raw")


def test_labels_that_are_not_there_are_asked_for_as_a_table(small: AnnData, tmp_path: Path) -> None:
    path = write_tenx_h5(small, tmp_path / "cells.h5")
    with pytest.raises(ValueError, match=r"no obs column 'cell_type'.*none at all: give .*--obs TABLE"):
        prepare(path, tmp_path / "out", labels=["cell_type"], progress=False)


def test_one_sample_of_text_is_in_memory_at_a_time(tmp_path: Path) -> None:
    from loaders.stores import tenx_mtx

    atlases = [make_atlas(n_cells=40, seed=seed) for seed in (1, 2)]
    stores = [open_store(write_tenx_mtx(a, tmp_path / f"s{i}")) for i, a in enumerate(atlases)]
    for i in (0, 1, 0):
        np.testing.assert_array_equal(read_all(stores[i]), atlases[i].X.toarray())
        assert tenx_mtx._LATEST._store is stores[i]
        assert not any(isinstance(value, type(stores[i].parsed())) for value in vars(stores[i]).values())


def test_files_may_have_a_prefix_if_it_is_one(small: AnnData, tmp_path: Path) -> None:
    folder = write_tenx_mtx(small, tmp_path / "geo", prefix="GSM1_")
    np.testing.assert_array_equal(read_all(open_store(folder)), small.X.toarray())
    (folder / "GSM2_matrix.mtx.gz").write_bytes((folder / "GSM1_matrix.mtx.gz").read_bytes())
    with pytest.raises(ValueError, match=r"holds several: GSM1_matrix.mtx.gz, GSM2_matrix.mtx.gz"):
        open_store(folder)


def test_a_folder_of_text_that_is_not_whole_is_refused(small: AnnData, tmp_path: Path) -> None:
    folder = write_tenx_mtx(small, tmp_path / "cells")
    barcodes, matrix = folder / "barcodes.tsv.gz", folder / "matrix.mtx.gz"
    whole = barcodes.read_bytes()
    barcodes.write_bytes(gzip.compress(b"\n".join(gzip.decompress(whole).split(b"\n")[:50])))
    with pytest.raises(ValueError, match=r"lists 50 barcodes, and matrix.mtx.gz has 60. Copy the folder"):
        open_store(folder)
    barcodes.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"barcodes.tsv.gz was cut off"):
        open_store(folder)
    barcodes.unlink()
    with pytest.raises(FileNotFoundError, match=r"not whole: there is no barcodes.tsv, nor one that is gz"):
        open_store(folder)
    barcodes.write_bytes(whole)
    matrix.write_bytes(gzip.compress(b"%%MatrixMarket matrix array real general\n50 60\n"))
    with pytest.raises(ValueError, match=r"holds real numbers as array"):
        open_store(folder)
    matrix.write_bytes(gzip.compress(b"cells"))
    with pytest.raises(ValueError, match=r"is not a Matrix Market file"):
        open_store(folder)


def test_an_h5_whose_parts_disagree_is_refused(small: AnnData, tmp_path: Path) -> None:
    path = write_tenx_h5(small, tmp_path / "cells.h5")
    with h5py.File(path, "r+") as file:
        del file["matrix/barcodes"]
        file["matrix/barcodes"] = np.array([b"one"])
    with pytest.raises(ValueError, match=r"60 cells by its shape, 60 by indptr and 1 barcodes"):
        open_store(path)
