"""A folder of stores as one store: order, identity, shared memory, and what is no collection."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from cfgen_scale.types import SchemaError
from loaders.preparation.prepare import prepare
from loaders.preparation.prepared import Prepared
from loaders.stores.collection import in_natural_order, leaves
from loaders.stores.opening import open_store
from tests.loaders.conftest import SHARDS, make_atlas, write_anndata_zarr, write_as, write_shards
from tests.loaders.tenx_files import write_tenx_h5, write_tenx_mtx

NAMES = ["dataset_0", "dataset_1", "dataset_2", "dataset_10", "dataset_11", "x2y10", "x10y2"]


def read_all(path: Path | str) -> np.ndarray:
    store = open_store(path)
    return store.read(np.arange(store.n_cells)).toarray()


def test_names_are_in_natural_order() -> None:
    assert in_natural_order(sorted(NAMES)) == NAMES


@pytest.fixture
def small() -> AnnData:
    return make_atlas(n_cells=60)


def test_shards_are_read_in_place(small: AnnData, tmp_path: Path) -> None:
    path = write_shards(small, tmp_path / "shards")
    made = prepare(path, tmp_path / "out", labels=["donor"], min_cells_per_gene=0, progress=False)
    assert made.manifest["modalities"][0]["in_place"]
    assert made.manifest["sources"][0]["kind"] == "anndata-zarr-collection"
    np.testing.assert_array_equal(made.read(np.arange(60))[0].toarray(), small.X.toarray())
    one = prepare(small, tmp_path / "one", labels=["donor"], min_cells_per_gene=0, progress=False)
    assert made.digest == one.digest


def test_a_plain_folder_and_a_url_are_collections_too(small: AnnData, tmp_path: Path) -> None:
    path = write_shards(small, tmp_path / "shards.zarr")
    np.testing.assert_array_equal(read_all(f"file://{path}"), small.X.toarray())
    (path / "zarr.json").unlink()
    (path / "README.md").write_text("what this is")
    (path / ".cache").mkdir()
    np.testing.assert_array_equal(read_all(path), small.X.toarray())


@pytest.mark.parametrize("form", ["h5ad", "10x_h5", "10x_mtx"])
def test_a_folder_of_files_is_converted(form: str, tmp_path: Path) -> None:
    atlases, folder = [make_atlas(n_cells=40, seed=seed) for seed in range(2)], tmp_path / "samples"
    folder.mkdir()
    for name, atlas in zip(("sample_9", "sample_10"), atlases, strict=True):
        match form:
            case "h5ad":
                atlas.write_h5ad(folder / f"{name}.h5ad")
            case "10x_h5":
                write_tenx_h5(atlas, folder / f"{name}.h5")
            case "10x_mtx":
                write_tenx_mtx(atlas, folder / name)
    made = prepare(folder, tmp_path / "out", min_cells_per_gene=0, progress=False)
    assert not made.manifest["modalities"][0]["in_place"]
    expected = np.concatenate([atlas.X.toarray() for atlas in atlases])
    np.testing.assert_array_equal(made.read(np.arange(80))[0].toarray(), expected)


def test_a_shard_that_is_missing_new_or_changed_is_named(small: AnnData, tmp_path: Path) -> None:
    path, out = write_shards(small, tmp_path / "shards"), tmp_path / "out"
    prepare(path, out, min_cells_per_gene=0, progress=False)
    (path / "dataset_10").rename(tmp_path / "away")
    with pytest.raises(ValueError, match=r"has changed: of its shards there are missing dataset_10\. .*put"):
        Prepared.open(out)
    shutil.copytree(tmp_path / "away", path / "dataset_10")
    Prepared.open(out)
    shutil.copytree(tmp_path / "away", path / "dataset_12")
    with pytest.raises(ValueError, match=r"there are new dataset_12\."):
        Prepared.open(out)
    shutil.rmtree(path / "dataset_12")
    shutil.rmtree(path / "dataset_2")
    other = make_atlas(n_cells=21, seed=3)
    write_anndata_zarr(other, path / "dataset_2")
    with pytest.raises(ValueError, match=r"changed dataset_2 \(dataset_2: it was .*'cells': 20.* 21"):
        Prepared.open(out)


def test_shards_share_the_room_for_decoded_chunks(small: AnnData, tmp_path: Path) -> None:
    store = open_store(write_shards(small, tmp_path / "shards"))
    shards = leaves([store])
    assert len(shards) == len(SHARDS)
    for part in ("data", "indices"):
        caches = {id(getattr(shard._csr, part)._cache) for shard in shards}
        assert len(caches) == 1
    # Shards have the same chunk numbers: what one keeps must not be taken for another's.
    for _ in range(2):
        np.testing.assert_array_equal(store.read(np.arange(60)).toarray(), small.X.toarray())


def test_what_is_no_collection_is_refused(small: AnnData, tmp_path: Path) -> None:
    path = write_shards(small, tmp_path / "shards")
    (path / "figures").mkdir()
    with pytest.raises(ValueError, match=r"shards/figures is no store of cells.*Move it elsewhere"):
        open_store(path)
    (path / "figures").rmdir()
    (path / "dataset_11" / "zarr.json").unlink()
    with pytest.raises(ValueError, match=r"dataset_11 is not an AnnData store: there is no Zarr group in it"):
        open_store(path)
    shutil.rmtree(path / "dataset_11")
    small.write_h5ad(path / "more.h5ad")
    with pytest.raises(ValueError, match=r"several kinds \(.* is anndata-zarr, more.h5ad is h5ad\)"):
        open_store(path)


def test_shards_of_other_genes_are_refused_naming_both(small: AnnData, tmp_path: Path) -> None:
    path = write_shards(small, tmp_path / "shards")
    write_anndata_zarr(make_atlas(n_cells=20, n_genes=51), path / "dataset_12")
    with pytest.raises(SchemaError, match=r"dataset_12 has gene 'gene_50' and .*dataset_2 has not"):
        open_store(path)


def test_one_store_is_no_collection(small: AnnData, tmp_path: Path) -> None:
    assert open_store(write_as(small, "zarr_v2", tmp_path)).kind == "anndata-zarr"
