"""Atlases of two and of three modalities, from a request to training, as those of one.

RNA with fragments that are counted (Poisson), and RNA with proteins and peaks that are open or not; theta of
each level of donor, of which one group is not told.
"""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cfgen_scale.types import AtlasSchema
from jobs.generation.chunk_workers import AtlasWorker, Receipt
from jobs.generation.generate import decode_atlas, generate_atlas
from jobs.generation.plan import Chunk
from jobs.generation.request import Group, Request, SizeFactor
from jobs.generation.request_sources import request_from_options
from jobs.generation.soma_beside import soma_of
from loaders.atlases.check_atlas import check_atlas
from loaders.preparation.prepare import prepare
from loaders.preparation.prepared import Prepared
from loaders.streaming.stream import CellStream
from tests.tiny_model import THREE_MODALITIES, TWO_MODALITIES, save_tiny_model
from tests.tree_bytes import tree_bytes

SCHEMAS = {"two": TWO_MODALITIES, "three": THREE_MODALITIES}
CELLS = 120


@pytest.fixture(scope="module", params=SCHEMAS)
def schema(request: pytest.FixtureRequest) -> AtlasSchema:
    return SCHEMAS[request.param]


@pytest.fixture(scope="module")
def model(schema: AtlasSchema, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model"
    return save_tiny_model(path, schema=schema, theta_by="donor")


def generate(model: Path, schema: AtlasSchema, out: Path, **options: Any) -> Path:
    sizes = {m.name: SizeFactor(3.0 + s, 0.1) for s, m in enumerate(schema.counted)}
    groups = (
        Group(45, untold=("donor",), guidance={"cell_type": 2.0}),
        Group(45, {"cell_type": "B"}, size_factors=sizes),
        Group(15),
        Group(15, {"cell_type": "T"}),
    )
    return generate_atlas(model, out, Request(groups), seed=3, chunk_cells=20, progress=False, **options)


@pytest.fixture(scope="module")
def atlas(model: Path, schema: AtlasSchema, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(model, schema, tmp_path_factory.mktemp("atlas") / "atlas.zarr")


def counts_of(atlas: Path, schema: AtlasSchema) -> list[csr_matrix]:
    return [anndata.read_zarr(atlas / "mod" / modality.name).X for modality in schema.modalities]


def test_every_modality_has_counts_of_its_kind(atlas: Path, schema: AtlasSchema) -> None:
    for modality, counts in zip(schema.modalities, counts_of(atlas, schema), strict=True):
        assert counts.shape == (CELLS, len(modality.features))
        assert np.issubdtype(counts.dtype, np.integer)
        assert counts.nnz > CELLS
        assert (counts.data.max() == 1) == (modality.likelihood == "bernoulli")
    report = check_atlas(atlas)
    assert (report.problems, report.cells) == ((), CELLS)


def test_size_factors_asked_for_are_those_of_each_modality(atlas: Path, schema: AtlasSchema) -> None:
    obs = anndata.read_zarr(atlas / "mod" / "rna").obs
    assert list(obs.columns) == []
    log_sizes = read_obs(atlas, [f"log_size_factor:{m.name}" for m in schema.counted])
    for s, of_modality in enumerate(log_sizes.T):
        assert abs(of_modality[45:90].mean() - (3.0 + s)) < 4 * 0.1 / np.sqrt(45)
        assert abs(of_modality[:45].mean() - 5.0) < 4 * 0.3 / np.sqrt(45)
    totals = np.asarray(counts_of(atlas, schema)[0].sum(axis=1)).ravel()
    assert totals[45:90].mean() < 0.5 * totals[:45].mean()


def read_obs(atlas: Path, columns: list[str]) -> np.ndarray:
    import zarr

    obs = zarr.open_group(atlas, mode="r")["obs"]
    return np.stack([np.asarray(obs[name]) for name in columns], axis=1)  # type: ignore[index]


def test_size_factors_are_asked_for_by_name(model: Path, schema: AtlasSchema, tmp_path: Path) -> None:
    options = [f"{m.name}={10 * (s + 1)}" for s, m in enumerate(schema.counted)]
    request = request_from_options(25, size_factor=options)
    out = generate_atlas(model, tmp_path / "a.zarr", request, chunk_cells=20, progress=False)
    found = read_obs(out, [f"size_factor:{m.name}" for m in schema.counted])
    np.testing.assert_allclose(found, [[10, 20]] * 25, rtol=1e-5)


def test_decoded_latents_are_the_atlas_written_at_once(
    atlas: Path, model: Path, schema: AtlasSchema, tmp_path: Path
) -> None:
    latents = generate(model, schema, tmp_path / "latents.zarr", content="latents")
    assert check_atlas(latents).ok
    decoded = decode_atlas(model, latents, tmp_path / "atlas.zarr", progress=False)
    assert tree_bytes(decoded) == tree_bytes(atlas)


def test_a_stopped_run_goes_on_to_the_same_bytes(
    atlas: Path, model: Path, schema: AtlasSchema, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write = tmp_path / "atlas.zarr", AtlasWorker.write

    def failing(worker: AtlasWorker, chunk: Chunk) -> Receipt:
        if chunk.index == 3:
            raise OSError(28, "No space left on device")
        return write(worker, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(AtlasWorker, "write", failing)
        with pytest.raises(OSError, match="No space left"):
            generate(model, schema, out)
    assert tree_bytes(generate(model, schema, out)) == tree_bytes(atlas)


@pytest.mark.parametrize("form", ["zarr", "soma"])
def test_it_streams_back_into_training(
    atlas: Path, model: Path, schema: AtlasSchema, tmp_path: Path, form: str
) -> None:
    """Counts and labels of every cell, of every modality with its likelihood, from either form."""
    source = soma_of(generate(model, schema, atlas, to_soma=True)) if form == "soma" else atlas
    others = schema.modalities[1:]
    prepare(
        source,
        tmp_path / "prepared",
        modalities={m.name: None for m in others},
        likelihoods={m.name: m.likelihood for m in others},
        labels=["cell_type", "donor"],
        min_cells_per_gene=0,
        progress=False,
    )
    prepared = Prepared.open(tmp_path / "prepared")
    assert prepared.schema == schema
    counts, seen = counts_of(atlas, schema), 0
    labels = read_obs_codes(atlas, schema)
    for batch in CellStream(prepared, batch_cells=32, seed=0, epochs=1):
        rows = prepared.source_rows[batch.rows]
        for found, expected in zip(batch.counts, counts, strict=True):
            np.testing.assert_array_equal(found.toarray(), expected[rows].toarray())
        np.testing.assert_array_equal(batch.labels, labels[rows])
        seen += len(rows)
    assert seen == len(prepared.rows("train")) > 0.7 * CELLS


def read_obs_codes(atlas: Path, schema: AtlasSchema) -> np.ndarray:
    return read_obs(atlas, [f"{covariate.name}/codes" for covariate in schema.covariates])
