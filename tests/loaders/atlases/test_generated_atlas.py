"""A generated atlas is read by others, by ourselves, and back into training; and latents by decoding."""

import importlib.util
from pathlib import Path

import anndata
import numpy as np
import pytest
import scanpy as sc

from cfgen_scale.types import AtlasSchema, GeneratedCells, Modality
from loaders import layout
from loaders.atlases.generated_atlas import GeneratedAtlas
from loaders.preparation.prepare import prepare
from loaders.preparation.prepared import Prepared
from loaders.streaming.stream import CellStream
from tests.loaders.generated import (
    CELL_TYPE,
    PROTEIN,
    RNA,
    SCHEMA,
    TWO_MODALITIES,
    cells_of,
    latents_of,
    write_atlas,
)
from tests.tree_bytes import tree_bytes

CHUNKS = [cells_of(n, seed=n) for n in (90, 1, 137, 64)]
TWO = [cells_of(n, seed=n, schema=TWO_MODALITIES) for n in (90, 1, 137, 64)]


def together(chunks: list[GeneratedCells], modality: int = 0) -> np.ndarray:
    return np.concatenate([chunk.counts[modality].toarray() for chunk in chunks])


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_atlas(tmp_path_factory.mktemp("generated") / "atlas.zarr", CHUNKS)


@pytest.fixture(scope="module")
def two_modalities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "CHUNK_OF_CELLS", 16)
        patch.setattr(layout, "SHARD_OF_CELLS", 64)
        out = tmp_path_factory.mktemp("two") / "atlas.zarr"
        return write_atlas(out, TWO, schema=TWO_MODALITIES)


def test_it_opens_in_scanpy(atlas: Path) -> None:
    adata = anndata.read_zarr(atlas)
    sc.pp.normalize_total(adata, target_sum=100)
    sc.pp.log1p(adata)
    counts = together(CHUNKS)
    expected = np.log1p(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * 100)
    np.testing.assert_allclose(adata.X.toarray(), expected, rtol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("xarray") is None, reason="anndata reads lazily with xarray")
def test_it_opens_lazily(atlas: Path) -> None:
    lazy = anndata.experimental.read_lazy(atlas)
    np.testing.assert_array_equal(lazy[100:150].to_memory().X.toarray(), together(CHUNKS)[100:150])


def test_it_streams_back_into_training(atlas: Path, tmp_path: Path) -> None:
    prepare(atlas, tmp_path / "prepared", labels=["cell_type"], min_cells_per_gene=0, progress=False)
    prepared = Prepared.open(tmp_path / "prepared")
    assert prepared.schema.modalities[0].features == RNA.features
    assert prepared.schema.covariates == (CELL_TYPE,)
    counts, labels = together(CHUNKS), np.concatenate([chunk.labels for chunk in CHUNKS])
    seen = 0
    for batch in CellStream(prepared, batch_cells=32, seed=0, epochs=1):
        drawn = prepared.source_rows[batch.rows]
        np.testing.assert_array_equal(batch.counts[0].toarray(), counts[drawn])
        np.testing.assert_array_equal(batch.labels, labels[drawn])
        seen += len(batch.rows)
    assert seen == len(prepared.rows("train"))


@pytest.mark.parametrize("cells", [slice(0, 90), slice(90, 91), slice(80, 240), slice(0, 292)])
def test_latents_come_back_as_they_were_drawn(cells: slice, atlas: Path) -> None:
    read = GeneratedAtlas.open(atlas).read_cells(cells)
    for name in ("labels", "log_size_factor", "latent"):
        drawn = np.concatenate([getattr(chunk, name) for chunk in CHUNKS])
        np.testing.assert_array_equal(getattr(read, name), drawn[cells])
        assert getattr(read, name).dtype == drawn.dtype
    assert read.group.tolist() == np.repeat([0, 0, 1, 1], [90, 1, 137, 64])[cells].tolist()
    assert read.chunk.tolist() == np.repeat([0, 1, 2, 3], [90, 1, 137, 64])[cells].tolist()


@pytest.mark.parametrize("schema", [SCHEMA, TWO_MODALITIES], ids=["one modality", "two"])
def test_an_atlas_of_latents_alone(schema: AtlasSchema, tmp_path: Path) -> None:
    drawn = [cells_of(n, seed=n, schema=schema) for n in (90, 1, 137)]
    out = write_atlas(tmp_path / "latents.zarr", [latents_of(cells) for cells in drawn], schema=schema)
    with_counts = write_atlas(tmp_path / "counts.zarr", drawn, schema=schema)
    adata, atlas = anndata.read_zarr(out), GeneratedAtlas.open(out)
    assert adata.X is None
    assert (atlas.content, atlas.n_cells, atlas.schema) == ("latents", 228, schema)
    both = [GeneratedAtlas.open(path).read_cells(slice(0, 228)) for path in (out, with_counts)]
    for name in ("labels", "log_size_factor", "latent", "group", "chunk"):
        np.testing.assert_array_equal(getattr(both[0], name), getattr(both[1], name))
    # The files that are in both are the same.
    latents, counts = tree_bytes(out), tree_bytes(with_counts)
    assert {file for file in latents if file.startswith("obs/")} <= set(counts)
    assert all(latents[file] == counts[file] for file in latents if file.startswith("obs/"))


@pytest.mark.parametrize(("m", "modality"), [(0, RNA), (1, PROTEIN)], ids=["rna", "protein"])
def test_each_modality_opens_by_itself(m: int, modality: Modality, two_modalities: Path) -> None:
    adata = anndata.read_zarr(two_modalities / "mod" / modality.name)
    np.testing.assert_array_equal(adata.X.toarray(), together(TWO, m))
    assert tuple(adata.var_names) == modality.features
    assert adata.obs_names[[0, -1]].tolist() == ["cell_000", "cell_291"]


def test_several_modalities_are_a_mudata(two_modalities: Path) -> None:
    """What mudata 0.4 writes, part by part; where it is at hand, it opens it itself."""
    import zarr

    root = zarr.open_group(two_modalities, mode="r")
    assert root.attrs["encoding-type"] == "MuData"
    assert root["mod"].attrs["mod-order"] == ["rna", "protein"]
    obs = anndata.io.read_elem(root["obs"])
    assert list(obs) == [
        "cell_type",
        *("size_factor:rna", "log_size_factor:rna", "size_factor:protein", "log_size_factor:protein"),
        *("request_group", "request_chunk"),
    ]
    np.testing.assert_array_equal(
        obs[["log_size_factor:rna", "log_size_factor:protein"]],
        np.concatenate([chunk.log_size_factor for chunk in TWO]),
    )
    assert root["obsm/protein"][...].all()
    assert root["obsmap/rna"][...].tolist() == list(range(1, 293))
    assert root["varm/protein"][:, 0].tolist() == [False] * 300 + [True] * 20
    assert root["varmap/protein"][...].tolist() == [0] * 300 + list(range(1, 21))
    names = anndata.io.read_elem(root["var"]).index
    assert tuple(names) == (*RNA.features, *PROTEIN.features)


# mudata 0.4 uses what pandas 3.1 deprecates.
@pytest.mark.filterwarnings("ignore:The inplace keyword in:DeprecationWarning")
@pytest.mark.skipif(importlib.util.find_spec("mudata") is None, reason="mudata is not installed")
def test_mudata_opens_it(two_modalities: Path) -> None:
    import mudata

    opened = mudata.read_zarr(two_modalities)
    for m, name in enumerate(("rna", "protein")):
        np.testing.assert_array_equal(opened.mod[name].X.toarray(), together(TWO, m))
    np.testing.assert_array_equal(opened.obsm["X_cfgen"], np.concatenate([chunk.latent for chunk in TWO]))


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no atlas at .*nowhere"):
        GeneratedAtlas.open(tmp_path / "nowhere")
    anndata.AnnData(np.eye(3)).write_zarr(tmp_path / "other.zarr")
    with pytest.raises(FileExistsError, match="is not an atlas that was generated"):
        GeneratedAtlas.open(tmp_path / "other.zarr")
