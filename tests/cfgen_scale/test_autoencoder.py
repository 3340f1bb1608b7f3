"""The autoencoder: its loss is the likelihood, its start is the data's mean, modalities are a tuple."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.sparse import csr_matrix

from cfgen_scale.autoencoder import Autoencoder, AutoencoderConfig
from cfgen_scale.counts import SparseCounts
from cfgen_scale.types import AtlasSchema, Covariate, Modality

SMALL = AutoencoderConfig(latent=4, hidden=(8,))


def test_loss_is_the_negative_log_likelihood_of_the_decoded_distribution(model_of, counts):
    autoencoder = model_of().autoencoder
    sparse = SparseCounts.from_csr(counts)
    labels = torch.zeros(24, 2, dtype=torch.int64)
    with torch.no_grad():
        loss = autoencoder([sparse], labels).numpy()
        log_l = sparse.totals().log()[:, None]
        log_mean, log_theta = autoencoder.decode(autoencoder.encode([sparse]), log_l, labels)[0]
    mean, theta = log_mean.exp().double().numpy(), log_theta.exp().double().numpy()
    exact = -stats.nbinom.logpmf(counts.toarray(), theta, theta / (theta + mean)).sum(1)
    np.testing.assert_allclose(loss, exact, rtol=1e-4)
    np.testing.assert_allclose(mean.sum(1), counts.sum(1).A1, rtol=1e-4)


def test_untrained_decoder_begins_near_the_mean_expression(schema):
    totals = torch.arange(40.0) * 10
    autoencoder = Autoencoder(SMALL, schema, [totals])
    log_mean, _ = autoencoder.decode(torch.zeros(1, 4), torch.zeros(1, 1), torch.zeros(1, 2).long())[0]
    share = (totals + 1) / (totals + 1).sum()
    assert np.corrcoef(log_mean[0].detach(), share.log())[0, 1] > 0.99


def test_bfloat16_keeps_the_mean_of_every_gene():
    """Among 20,000 genes log shares are about -10, where bfloat16 numbers are 6 % apart."""
    n_genes = 20_000
    schema = AtlasSchema((Modality("rna", "negative_binomial", tuple(map(str, range(n_genes)))),), ())
    totals = torch.linspace(1e3, 3e3, n_genes)
    autoencoder = Autoencoder(AutoencoderConfig(latent=4, hidden=(16,)), schema, [totals])
    z, log_l, labels = torch.randn(64, 4), torch.zeros(64, 1), torch.empty(64, 0, dtype=torch.int64)
    with torch.no_grad():
        exact, _ = autoencoder.decode(z, log_l, labels)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded, _ = autoencoder.decode(z, log_l, labels)[0]
    assert rounded.dtype == torch.float32
    off = (rounded - exact).exp() - 1
    assert off.mean(0).abs().max() < 5e-4, "of no gene is the mean always off to one side"
    assert off.abs().max() < 5e-3


def test_theta_per_level(model_of):
    autoencoder = model_of(theta_by="cell_type").autoencoder
    with torch.no_grad():
        autoencoder.decoders["rna"].log_theta.copy_(torch.arange(4.0)[:, None].expand(4, 40))
    labels = torch.tensor([[2, 0], [0, 1], [-1, 0]])
    _, log_theta = autoencoder.decode(torch.zeros(3, 5), torch.zeros(3, 1), labels)[0]
    assert log_theta.shape == (3, 40)
    assert log_theta[:, 0].tolist() == [2.0, 0.0, 1.5]


def test_an_empty_share_of_a_batch_has_zero_gradients_for_every_parameter(model_of):
    """With a short last batch a worker may hold no cell, and still takes part in the step."""
    autoencoder = model_of().autoencoder
    loss = autoencoder([SparseCounts.from_csr(csr_matrix((0, 40)))], torch.empty(0, 2, dtype=torch.int64))
    loss.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in autoencoder.parameters())


@pytest.mark.parametrize("n_modalities", [1, 2, 3])
def test_modalities_are_a_tuple(n_modalities):
    """A second modality is one more entry of the schema; the latent is shared."""
    sizes = (12, 30, 7)[:n_modalities]
    schema = AtlasSchema(
        tuple(Modality(f"m{i}", "negative_binomial", tuple(map(str, range(g)))) for i, g in enumerate(sizes)),
        (Covariate("cell_type", ("a",)),),
    )
    autoencoder = Autoencoder(SMALL, schema, [torch.ones(g) for g in sizes])
    draws = np.random.default_rng(0)
    batch = [SparseCounts.from_csr(csr_matrix(draws.poisson(1.0, (6, g)))) for g in sizes]
    labels = torch.zeros(6, 1, dtype=torch.int64)
    assert autoencoder.encode(batch).shape == (6, 4)
    assert autoencoder(batch, labels).shape == (6,)
    keys = [torch.arange(6)] * n_modalities
    generated = autoencoder.sample(torch.randn(6, 4), torch.zeros(6, n_modalities), labels, keys)
    assert [tuple(g.shape) for g in generated] == [(6, g) for g in sizes]


def test_training_lowers_the_loss(schema, counts):
    autoencoder = Autoencoder(SMALL, schema, [torch.ones(40)])
    batch, labels = [SparseCounts.from_csr(counts)], torch.zeros(24, 2, dtype=torch.int64)
    optimiser = torch.optim.Adam(autoencoder.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = autoencoder(batch, labels).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
