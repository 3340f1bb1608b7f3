"""CFGen: self-describing files, addressed generation, encode / transport / decode."""

import json

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from cfgen_scale.autoencoder import AutoencoderConfig
from cfgen_scale.model import CFGen
from cfgen_scale.model_config import ModelConfig
from cfgen_scale.ode import OdeConfig
from cfgen_scale.size_factors import SizeFactors
from cfgen_scale.types import AtlasSchema, Condition, Modality, SchemaError
from cfgen_scale.velocity import VelocityConfig


def test_a_saved_model_loads_without_data_and_generates_the_same_cells(model_of, tmp_path):
    model = model_of(theta_by="cell_type", size_factors_by="cell_type", size_factor_told=True)
    model.provenance["note"] = "kept"
    model.save(tmp_path / "model")
    loaded = CFGen.load(tmp_path / "model")
    assert loaded.schema == model.schema
    assert loaded.config == model.config
    assert loaded.provenance == {"note": "kept"}
    assert loaded.digest == model.digest
    ours, theirs = model.generate(30, seed=4), loaded.generate(30, seed=4)
    assert (ours.X != theirs.X).nnz == 0
    np.testing.assert_array_equal(ours.obsm["X_cfgen"], theirs.obsm["X_cfgen"])


LEVERS = {
    "skip": "scaled",
    "encoder_input": "expressed",
    "whitening": "unit_variance",
    "ode": OdeConfig(steps=4, guide_from=0.2, guide_to=0.7),
}


def test_a_model_with_every_lever_loads_and_generates_the_same_cells(model_of, tmp_path):
    model = model_of(**LEVERS)
    model.whitening.fit(3 + 2 * torch.randn(50, 5, generator=torch.Generator().manual_seed(0)))
    loaded = CFGen.load(model.save(tmp_path / "model"))
    assert loaded.config == model.config
    assert loaded.whitening.kind == "unit_variance"
    weights = {"cell_type": 2.0}
    ours, theirs = (m.generate(20, guidance=weights, seed=4).obsm["X_cfgen"] for m in (model, loaded))
    np.testing.assert_array_equal(ours, theirs)
    always = model.generate(20, guidance=weights, seed=4, ode=OdeConfig(steps=4)).obsm["X_cfgen"]
    assert (always != ours).any()


def test_a_model_from_before_there_were_levers_is_as_it_was(model_of, tmp_path):
    model = model_of()
    path = model.save(tmp_path / "model")
    document = json.loads((path / "config.json").read_text())
    config = document["config"]
    del config["whitening"], config["velocity"]["skip"], config["autoencoder"]["encoder_input"]
    del config["ode"]["guide_from"], config["ode"]["guide_to"]
    (path / "config.json").write_text(json.dumps(document))
    loaded = CFGen.load(path)
    assert loaded.config == model.config
    np.testing.assert_array_equal(*(m.generate(20, seed=4).obsm["X_cfgen"] for m in (model, loaded)))


def test_a_model_directory_holds_json_and_safetensors_alone(model_of, tmp_path):
    model_of().save(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "weights.safetensors"]
    json.loads((tmp_path / "model" / "config.json").read_text())


def test_loading_what_is_no_model_is_refused(tmp_path, model_of):
    with pytest.raises(FileNotFoundError, match=r"holds no model: config\.json"):
        CFGen.load(tmp_path)
    path = model_of().save(tmp_path / "model")
    document = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**document, "format": 99}))
    with pytest.raises(ValueError, match="model format 99"):
        CFGen.load(path)


def test_saving_over_something_else_is_refused(tmp_path, model_of):
    (tmp_path / "precious").mkdir()
    with pytest.raises(FileExistsError, match="is not a model"):
        model_of().save(tmp_path / "precious")


def test_generated_anndata_is_what_was_asked(model_of):
    cells = model_of().generate(50, {"cell_type": "NK"}, untold=["donor"], seed=1)
    assert cells.shape == (50, 40)
    assert list(cells.var_names) == [f"gene-{i}" for i in range(40)]
    assert (cells.obs["cell_type"] == "NK").all()
    assert cells.obs["donor"].isna().all()
    assert cells.X.dtype == np.int32
    assert cells.X.min() >= 0
    assert cells.obsm["X_cfgen"].shape == (50, 5)
    assert (cells.obs["size_factor"] > 0).all()


def test_draws_are_addressed_by_seed_and_index(model_of):
    model = model_of()
    labels = model.draw_labels(20, {}, seed=0)

    def draw(seed, index):
        return model.generate_cells(labels, guidance=[1.0, 0.0], seed=seed, index=index).counts[0].toarray()

    torch.manual_seed(1)
    first = draw(0, 0)
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, draw(0, 0))
    assert (first != draw(0, 1)).any()
    assert (first != draw(1, 0)).any()


def test_given_size_factors_are_used(model_of):
    model = model_of()
    labels = model.draw_labels(200, {}, seed=0)
    log_l = np.full((200, 1), np.log(3000.0), np.float32)
    cells = model.generate_cells(labels, guidance=[1.0, 0.0], seed=0, log_size_factor=log_l)
    np.testing.assert_array_equal(cells.log_size_factor, log_l)
    assert cells.counts[0].sum(1).mean() == pytest.approx(3000, rel=0.1)


def test_inversion_then_generation_is_the_identity(model_of, counts):
    model = model_of(size_factor_told=True)
    z = model.encode([counts])
    condition = Condition(torch.tensor([[0, 1]] * 24), torch.full((24, 1), 4.0))
    ode = OdeConfig("midpoint", steps=100)
    noise = model.transport(z, condition, guidance=[2.0, 1.0], backwards=True, ode=ode)
    back = model.transport(noise, condition, guidance=[2.0, 1.0], ode=ode)
    torch.testing.assert_close(back, z, atol=1e-2, rtol=1e-3)
    assert (noise - z).abs().max() > 0.1


def test_encoding_does_not_depend_on_the_batch(model_of, counts):
    model = model_of()
    torch.testing.assert_close(
        model.encode([counts]), model.encode([counts], batch_cells=5), atol=1e-5, rtol=1e-5
    )


def test_cells_of_other_genes_are_not_encoded(model_of, counts):
    model = model_of()
    genes = list(model.schema.modalities[0].features)
    model.encode([counts], features=[genes])
    with pytest.raises(SchemaError, match="features of 'rna' differ first at place 0: 'gene-0'"):
        model.encode([counts], features=[genes[::-1]])
    with pytest.raises(SchemaError, match="40 features of 'rna', the cells have 39"):
        model.encode([counts[:, :39]])


def test_bad_requests_are_refused(model_of):
    model = model_of()
    with pytest.raises(SchemaError, match="no category 'dendritic'"):
        model.generate(5, {"cell_type": "dendritic"})
    with pytest.raises(SchemaError, match="no attribute 'tissue'"):
        model.generate(5, guidance={"tissue": 1.0})
    with pytest.raises(ValueError, match="finite"):
        model.generate(5, guidance={"donor": float("nan")})
    with pytest.raises(ValueError, match="at least 1"):
        model.generate(0)


@pytest.fixture
def two(libraries, frequencies, schema, tmp_path):
    """RNA and binarised peaks, written and read."""
    modalities = (*schema.modalities, Modality("atac", "bernoulli", tuple(f"peak-{i}" for i in range(25))))
    config = ModelConfig(
        AutoencoderConfig(latent=6, hidden=(16, 8), latents="concatenated"),
        VelocityConfig(width=16, blocks=1, embedding=8, size_factor_told=True, attributes_told="subset"),
        size_factors="log_normal",
        size_factors_by=("cell_type",),
    )
    made = CFGen(
        config,
        AtlasSchema(modalities, schema.covariates),
        size_factors=SizeFactors.fit(libraries, schema, "cell_type"),
        frequencies=frequencies,
        feature_totals=[torch.arange(40.0), torch.arange(25.0)],
    )
    return CFGen.load(made.save(tmp_path / "two"))


def test_two_modalities_from_counts_to_cells(two, counts, tmp_path):
    peaks = csr_matrix(np.random.default_rng(0).integers(0, 4, (24, 25)).astype(np.int32))
    z = two.encode([counts, peaks], features=[m.features for m in two.schema.modalities])
    assert z.shape == (24, 6)
    torch.testing.assert_close(two.encode([counts, peaks > 0]), z)
    labels = two.draw_labels(30, {"cell_type": "B"}, seed=0)
    cells = two.generate_cells(labels, guidance=[2.0, 1.0], seed=0)
    assert [c.shape for c in cells.counts] == [(30, 40), (30, 25)]
    assert cells.log_size_factor.shape == (30, 1)
    assert set(np.unique(cells.counts[1].toarray())) == {0, 1}
    made = two.generate(30, {"cell_type": "B"}, guidance={"cell_type": 2.0})
    assert list(made) == ["rna", "atac"]
    assert made["rna"].obs.equals(made["atac"].obs)
    assert list(made["atac"].var_names) == list(two.schema.modalities[1].features)
    assert (made["rna"].obs["size_factor"] > 0).all()


def test_a_model_told_of_all_or_none_refuses_to_weigh_them_apart(model_of):
    model = model_of(attributes_told="all")
    model.generate(3, guidance={"cell_type": 2.0, "donor": 2.0})
    with pytest.raises(ValueError, match="all attributes of a cell or none"):
        model.generate(3, guidance={"cell_type": 2.0})
