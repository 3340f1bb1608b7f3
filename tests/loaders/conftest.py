"""Small atlases, made and written in every form that a user may bring."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from scipy.sparse import csr_matrix

from loaders.preparation.prepare import prepare
from loaders.preparation.prepared import Prepared
from tests.loaders.experiments import write_experiment
from tests.loaders.mudata_files import write_mudata
from tests.loaders.tenx_files import write_tenx_h5, write_tenx_mtx

N_DONORS = 40
NOBODY = 65_534
FORMATS = (
    "h5ad",
    "zarr_v2",
    "zarr_v3",
    "zarr_dense",
    "soma",
    "memory",
    "10x_h5",
    "10x_mtx",
    "shards",
    "packed_none",
    "packed_zstd",
)
PARTS = ("h5mu", "mudata_zarr")  # modalities of a MuData
WITHOUT_OBS = ("10x_h5", "10x_mtx")
READ_IN_PLACE = ("zarr_v2", "zarr_v3", "zarr_dense", "soma", "shards", "packed_none", "packed_zstd")
SHARDS = ("dataset_2", "dataset_10", "dataset_11")  # in their natural order, which is not that of text


def make_atlas(n_cells: int = 600, n_genes: int = 50, seed: int = 0) -> AnnData:
    """Cells sorted by donor (40 of them); types B, T and "" (unlabelled); every cell has a count."""
    random = np.random.default_rng(seed)
    counts = random.poisson(0.6, (n_cells, n_genes)) * random.integers(1, 4, (n_cells, n_genes))
    counts[:, 0] += 1
    types = np.array(["T cells", "B cells", ""], dtype=object)[random.integers(0, 3, n_cells)]
    donors = [f"donor_{i * N_DONORS // n_cells:02d}" for i in range(n_cells)]
    obs = pd.DataFrame(
        {"donor": pd.Categorical(donors), "cell_type": pd.Categorical(types)},
        index=pd.Index([f"cell_{seed}_{i}" for i in range(n_cells)], dtype=object),
    )
    var = pd.DataFrame(index=pd.Index([f"gene_{g}" for g in range(n_genes)], dtype=object))
    return AnnData(X=csr_matrix(counts.astype(np.float32)), obs=obs, var=var)


def write_as(adata: AnnData, form: str, path: Path) -> Path | AnnData:
    """The atlas in one of `FORMATS` or `PARTS`; the path to it, or the object itself for "memory"."""
    adata = adata.copy()
    match form:
        case "memory":
            return adata
        case "h5ad":
            adata.write_h5ad(path / "atlas.h5ad")
            return path / "atlas.h5ad"
        case "soma":
            return write_experiment(adata, path / "soma")
        case "zarr_dense":
            adata.X = adata.X.toarray()
            adata.write_zarr(path / "dense.zarr", chunks=(7, adata.n_vars))
            return path / "dense.zarr"
        case "10x_h5":
            return write_tenx_h5(adata, path / "filtered_feature_bc_matrix.h5")
        case "10x_mtx":
            return write_tenx_mtx(adata, path / "filtered_feature_bc_matrix")
        case "h5mu" | "mudata_zarr":
            bare = AnnData(adata.X, obs=adata.obs[[]], var=adata.var)
            place = path / ("atlas.h5mu" if form == "h5mu" else "mudata.zarr")
            return write_mudata({"rna": bare}, place, obs=adata.obs) / "mod" / "rna"
        case "shards":
            return write_shards(adata, path / "shards")
        case "packed_none" | "packed_zstd":
            codec = form.removeprefix("packed_")
            labels = list(adata.obs.columns)
            options = {"min_cells_per_gene": 0, "validation_fraction": 0, "test_fraction": 0}
            made = prepare(adata, path / form, labels=labels, codec=codec, progress=False, **options)
            return made.path / "cells.zarr"
    write_anndata_zarr(adata, path / f"{form}.zarr", version=int(form[-1]))
    return path / f"{form}.zarr"


def write_shards(adata: AnnData, path: Path) -> Path:
    """AnnData-Zarr stores `SHARDS` in a group, as annbatch writes a collection."""
    zarr.create_group(path)
    for name, rows in zip(SHARDS, np.array_split(np.arange(adata.n_obs), len(SHARDS)), strict=True):
        write_anndata_zarr(adata[rows].copy(), path / name)
    return path


def write_anndata_zarr(adata: AnnData, path: Path, *, version: int = 3) -> None:
    with warnings.catch_warnings():
        # anndata 0.13 says, whichever version is named, that it will write v3 alone one day
        warnings.simplefilter("ignore", category=DeprecationWarning)
        with anndata.settings.override(zarr_write_format=version):
            adata.write_zarr(path)


def write_obs_table(adata: AnnData, path: Path) -> Path:
    """The annotations of the atlas as a table of text, names of cells first."""
    adata.obs.to_csv(path)
    return path


@pytest.fixture(scope="session")
def atlas() -> AnnData:
    return make_atlas()


@pytest.fixture(scope="session")
def prepared(atlas: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The atlas prepared from memory, with 10 % of cells for validation and for test."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    return prepare(atlas, out, labels=["cell_type", "donor"], progress=False)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write an atlas to a file of its own; returns the path."""

    def written(adata: AnnData, form: str = "h5ad", name: str = "source") -> Path:
        (tmp_path / name).mkdir()
        path = write_as(adata, form, tmp_path / name)
        assert isinstance(path, Path)
        return path

    return written


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read whatever its permissions are: what is done inside is done as somebody else."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
