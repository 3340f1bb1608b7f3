"""Imputation with velocities whose answer is known."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from cfgen_scale.counts import SparseCounts
from cfgen_scale.imputation import impute
from cfgen_scale.ode import OdeConfig
from cfgen_scale.types import Modality

LABELS = np.array([[0, 1]] * 24)
FINE = OdeConfig("midpoint", steps=50)


class Linear(torch.nn.Module):
    """u_t(z) = rate * z: the flow from 0 to 1 multiplies by exp(rate)."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, t, z, condition):
        return self.rate * z


@pytest.fixture
def full(counts):
    """The counts, with one in every cell."""
    return csr_matrix(counts.toarray() + np.eye(24, 40, dtype=np.int32))


def imputed(model, counts, **options):
    given = {"guidance": [1.0, 1.0], "sigma": 0.0, "ode": FINE} | options
    return np.concatenate([means[0] for _, means in impute(model, [counts], LABELS, **given)])


def reconstruction(model, counts, kept_share=1.0):
    sparse = SparseCounts.from_csr(counts)
    log_size = (sparse.totals() / kept_share).log()[:, None]
    with torch.no_grad():
        decoded = model.autoencoder.decode(model.autoencoder.encode([sparse]), log_size, torch.tensor(LABELS))
    return decoded[0][0].exp().numpy()


def test_without_a_step_the_way_back_and_forth_is_the_reconstruction(model_of, full):
    model = model_of()
    expected = reconstruction(model, full)
    alone = imputed(model, full, through_flow=False)
    np.testing.assert_allclose(alone, expected, rtol=1e-3, atol=1e-4)
    model.velocity = Linear(0.7)
    np.testing.assert_allclose(imputed(model, full), expected, rtol=1e-2, atol=1e-3)


def test_means_add_up_to_the_library_size_before_the_loss(model_of, full):
    means = imputed(model_of(), full, kept_share=0.8)
    np.testing.assert_allclose(means.sum(1), np.asarray(full.sum(1)).ravel() / 0.8, rtol=1e-4)


def test_a_step_in_noise_arrives_scaled_by_the_flow(model_of, full, monkeypatch):
    """z' - z has standard deviation sigma exp(rate): by 24 cells x 6 directions x 40 seeds, within 5 %."""
    model, rate, sigma = model_of(), 0.7, 0.05
    model.velocity = Linear(rate)
    arrived = []
    transport = model.transport

    def watched(*arguments, **options):
        z = transport(*arguments, **options)
        if not options.get("backwards"):
            arrived.append(z)
        return z

    monkeypatch.setattr(model, "transport", watched)
    for seed in range(40):
        imputed(model, full, sigma=sigma, seed=seed)
    totals = torch.from_numpy(full.sum(1)).float().reshape(-1, 1)
    moved = torch.stack(arrived) - model.sizes_beside.join(model.encode([full]), totals.log())
    assert moved.std().item() == pytest.approx(sigma * np.exp(rate), rel=0.05)
    assert moved.mean().item() == pytest.approx(0, abs=0.01)


def test_own_labels_are_told_on_both_ways(model_of, full):
    """With guidance 0 labels do not matter; with 1 they do."""
    model = model_of()
    ode = OdeConfig("euler", steps=1)  # so coarse that the way back does not undo the way there

    def told(labels, weight):
        made = impute(model, [full], labels, guidance=[weight, 0.0], sigma=0.0, ode=ode)
        return np.concatenate([means[0] for _, means in made])

    other = LABELS + np.array([1, 0])
    np.testing.assert_array_equal(told(LABELS, 0.0), told(other, 0.0))
    assert np.abs(told(LABELS, 1.0) - told(other, 1.0)).max() > 1e-4


def test_batches_are_rows_in_order(model_of, full):
    model = model_of()
    whole = imputed(model, full, ode=OdeConfig(steps=2))
    made = list(
        impute(model, [full], LABELS, guidance=[1.0, 1.0], sigma=0.0, ode=OdeConfig(steps=2), batch_cells=10)
    )
    assert [(rows.start, rows.stop) for rows, _ in made] == [(0, 10), (10, 20), (20, 24)]
    parts = np.concatenate([means[0] for _, means in made])
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"sigma": -1.0}, "sigma is a standard deviation"), ({"kept_share": 0.0}, "above 0 and at most 1")],
)
def test_values_out_of_range_are_refused(model_of, full, options, says):
    with pytest.raises(ValueError, match=says):
        imputed(model_of(), full, **options)


def test_cells_without_counts_are_refused(model_of, full):
    full = full.tolil()
    full[7] = 0
    with pytest.raises(ValueError, match="1 cells have no counts of 'rna', the first in row 7"):
        imputed(model_of(), csr_matrix(full))


def test_peaks_that_are_open_or_not_are_not_imputed(model_of, full):
    model = model_of()
    features = model.schema.modalities[0].features
    model.schema = type(model.schema)((Modality("atac", "bernoulli", features),), model.schema.covariates)
    with pytest.raises(
        ValueError, match="'atac' is bernoulli: what is imputed is negative_binomial or poisson"
    ):
        imputed(model, full)
