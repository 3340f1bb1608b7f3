"""What disturbs the autoencoder: of the strength asked for, and a function of each cell's position."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from cfgen_scale.counter_draws import CounterDraws
from cfgen_scale.counts import SparseCounts
from cfgen_scale.perturbation import Perturbation

N = 4000


def of(positions, **strength):
    return Perturbation(CounterDraws(0, "a test"), positions, **strength)


def everyone(**strength):
    return of(torch.arange(N), **strength)


def test_dropped_units_are_made_up_for_by_the_others():
    units = torch.ones(N, 30)
    found = everyone(dropout=0.3).dropout_in("encoder")(units, 2)
    assert set(found.unique().tolist()) == {0.0, np.float32(1 / 0.7)}
    assert found.mean() == pytest.approx(1.0, abs=0.01)
    assert (torch.corrcoef(found.T) - torch.eye(30)).abs().max() < 5 / N**0.5


def test_networks_and_layers_drop_other_units():
    perturbation, units = everyone(dropout=0.5), torch.ones(N, 8)
    masks = [
        perturbation.dropout_in(name)(units, layer).flatten()
        for name, layer in (("encoder", 2), ("encoder", 5), ("decoder", 2))
    ]
    assert (torch.corrcoef(torch.stack(masks)) - torch.eye(3)).abs().max() < 0.03


def test_the_share_heard_is_uniform():
    counts = SparseCounts.from_csr(csr_matrix(np.full((N, 50), 20)))
    share = everyone(thinning=0.6).heard(counts, "rna").totals() / 1000
    assert share.min() > 0.35
    assert share.mean() == pytest.approx(0.7, abs=0.01)
    assert share.std() == pytest.approx(0.6 / 12**0.5, abs=0.01)


def test_noise_goes_by_the_size_of_the_latent():
    z = torch.randn(N, 5, generator=torch.Generator().manual_seed(0))
    perturbation = everyone(latent_noise=0.2)
    moved = perturbation.moved(z) - z
    size = z.square().mean(1, keepdim=True).sqrt()
    assert (moved / size).std() == pytest.approx(0.2, rel=0.03)
    torch.testing.assert_close(perturbation.moved(100 * z), 100 * perturbation.moved(z))


def test_a_share_of_the_cells_is_disturbed_as_in_the_whole():
    strength = {"dropout": 0.4, "thinning": 0.5, "latent_noise": 0.3}
    mine, z = torch.tensor([17, 3, 3999]), torch.ones(N, 5)
    counts = csr_matrix(np.random.default_rng(0).poisson(2.0, (N, 6)))
    whole, some = everyone(**strength), of(mine, **strength)
    heard = whole.heard(SparseCounts.from_csr(counts), "rna").dense()
    assert torch.equal(some.heard(SparseCounts.from_csr(counts[mine.numpy()]), "rna").dense(), heard[mine])
    assert torch.equal(some.dropout_in("x")(z[mine], 0), whole.dropout_in("x")(z, 0)[mine])
    torch.testing.assert_close(some.moved(z[mine]), whole.moved(z)[mine])


def test_without_strength_nothing_is_disturbed():
    counts, z = SparseCounts.from_csr(csr_matrix(np.eye(N, 4))), torch.ones(N, 2)
    perturbation = everyone()
    assert perturbation.heard(counts, "rna") is counts
    assert perturbation.dropout_in("encoder") is None
    assert perturbation.moved(z) is z
