"""PyTorch's operations, on the CPU here, and the fused decoder draw what the compiled kernel draws."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.sparse import csr_matrix
from torch import nn

from cfgen_scale.drawing import Distribution, compiled, decoded, draw_counts, draw_counts_on_device, on_device
from cfgen_scale.drawing.decoded import draw_decoded, draw_decoded_on_device

CELLS, GENES = 300, 1001


def agreement(a, b):
    """Of the counts that are not 0 in both: zeros, which are most, hide what is wrong with the others."""
    a, b = a.toarray(), b.toarray()
    found = (a > 0) | (b > 0)
    return np.mean(a[found] == b[found])


def distribution_of(kind):
    if kind != "negative_binomial":
        return Distribution(kind)
    random = np.random.default_rng(1)
    theta = np.exp(random.uniform(-6, 10, (2, GENES)))
    return Distribution(kind, theta, random.integers(0, 2, CELLS))


@pytest.mark.parametrize("dense", [2**26, 7 * GENES], ids=["at once", "a few rows at a time"])
@pytest.mark.parametrize("kind", ["negative_binomial", "poisson", "bernoulli"])
def test_counts_are_those_of_the_compiled_kernel(monkeypatch, kind, dense, keys_of):
    monkeypatch.setattr(on_device, "DENSE", dense)
    largest = 0.0 if kind == "bernoulli" else 9.0
    means = np.exp(np.random.default_rng(0).uniform(-9, largest, (CELLS, GENES))).astype(np.float32)
    keys, distribution = keys_of(CELLS), distribution_of(kind)
    on_processor = draw_counts(means, keys, distribution)
    as_tensors = torch.from_numpy(means), torch.from_numpy(keys.view(np.int64))
    drawn = draw_counts_on_device(*as_tensors, distribution)
    assert agreement(drawn, on_processor) > 0.9999
    assert drawn.data.dtype == drawn.indices.dtype == np.int32
    assert drawn.data.min() >= 1
    assert csr_matrix((drawn.data, drawn.indices, drawn.indptr), drawn.shape).has_canonical_format


@pytest.mark.parametrize(("mean", "theta"), [(0.05, 0.5), (8.0, 0.01), (40.0, 0.3), (1e4, 10.0)])
def test_counts_on_a_device_follow_the_pmf(mean, theta, keys_of):
    keys = torch.from_numpy(keys_of(400, seed=5).view(np.int64))
    table = Distribution("negative_binomial", np.full((1, 500), theta))
    counts = draw_counts_on_device(torch.full((400, 500), mean), keys, table).toarray()
    exact = stats.nbinom(theta, theta / (theta + mean))
    edges = np.unique(exact.ppf(np.linspace(0.05, 0.95, 19)))
    found = np.bincount(np.searchsorted(edges, counts.ravel()), minlength=len(edges) + 1)
    expected = counts.size * np.diff([0.0, *exact.cdf(edges), 1.0])
    assert stats.chisquare(found, expected).pvalue > 1e-3


@pytest.mark.parametrize("wrong", [np.nan, -1.0, np.inf])
def test_means_that_cannot_be_are_refused(wrong, keys_of):
    means = torch.ones(5, 3)
    means[4, 1] = wrong
    with pytest.raises(ValueError, match="means of cell 4 of the batch"):
        draw_counts_on_device(means, torch.from_numpy(keys_of(5).view(np.int64)), Distribution("poisson"))


def test_no_cells(keys_of):
    keys = torch.from_numpy(keys_of(0).view(np.int64))
    assert draw_counts_on_device(torch.ones(0, 5), keys, Distribution("poisson")).shape == (0, 5)


# ---------------------------------------------------------------------- the decoder's last layer


@pytest.fixture
def last():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(32, GENES).requires_grad_(False)


@pytest.mark.parametrize("kind", ["negative_binomial", "poisson", "bernoulli"])
def test_the_fused_layer_draws_what_its_means_say(kind, last, keys_of):
    """Means of float64 from the plain formula; 300 cells are two products, the second of fewer rows."""
    hidden = 3 * torch.randn(CELLS, 32, generator=torch.Generator().manual_seed(1))
    log_l = torch.linspace(3, 12, CELLS)
    logits = hidden.double() @ last.weight.double().T + last.bias.double()
    means = logits.sigmoid() if kind == "bernoulli" else logits.softmax(1) * log_l.double().exp()[:, None]
    keys, distribution = keys_of(CELLS), distribution_of(kind)
    fused = draw_decoded(hidden, last, log_l, torch.from_numpy(keys.view(np.int64)), distribution)
    exact = draw_counts(means.numpy(), keys, distribution)
    assert exact.nnz > 1000
    assert agreement(fused, exact) > 1 - 1e-4
    on_device_means = decoded._means(last(hidden), log_l, distribution)
    torch.testing.assert_close(on_device_means.double(), means, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("kind", ["negative_binomial", "poisson", "bernoulli"])
def test_on_a_device_a_few_rows_are_there_at_a_time(monkeypatch, kind, last, keys_of):
    hidden, log_l = (
        torch.randn(CELLS, 32, generator=torch.Generator().manual_seed(1)),
        torch.full((CELLS,), 8.0),
    )
    of_cells = torch.from_numpy(keys_of(CELLS).view(np.int64)), distribution_of(kind)
    sizes, means_of = [], decoded._means
    monkeypatch.setattr(
        decoded, "_means", lambda logits, *rest: sizes.append(len(logits)) or means_of(logits, *rest)
    )
    whole = draw_decoded_on_device(hidden, last, log_l, *of_cells)
    monkeypatch.setattr(on_device, "DENSE", 90 * GENES + 1)
    in_parts = draw_decoded_on_device(hidden, last, log_l, *of_cells)
    assert sizes == [300, 90, 90, 90, 30]
    # A product of fewer rows may round otherwise.
    assert agreement(in_parts, whole) > 1 - 1e-4
    assert csr_matrix((in_parts.data, in_parts.indices, in_parts.indptr), whole.shape).has_canonical_format
    assert agreement(whole, draw_decoded(hidden, last, log_l, *of_cells)) > 1 - 1e-4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_memory_of_a_gpu_does_not_grow_with_the_chunk():
    """A chunk of 8,192 cells x 200,000 peaks, 3 % of them open, whose dense logits are 6.6 GB."""
    last = nn.Linear(32, 200_000, device="cuda").requires_grad_(False)
    last.bias.fill_(-3.5)
    hidden, keys = torch.zeros(8192, 32, device="cuda"), torch.arange(8192, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    counts = draw_decoded(hidden, last, torch.zeros(8192, device="cuda"), keys, Distribution("bernoulli"))
    assert counts.nnz > 0.02 * 8192 * 200_000
    assert torch.cuda.max_memory_allocated() < 10 * 4 * on_device.DENSE


def test_means_of_the_fused_layer_have_the_precision_of_float32(last):
    logits = 30 * torch.randn(200, GENES, generator=torch.Generator().manual_seed(2))
    out = np.empty(GENES, np.float32)
    nothing = np.zeros(GENES, np.float32)
    for row in logits:
        total = compiled.shares(row.numpy(), nothing, out)
        exact = torch.softmax(row.double(), 0).numpy()
        near = exact > 1e-30
        np.testing.assert_allclose((out / total)[near], exact[near], rtol=1e-5)
        assert (out / total)[~near].max(initial=0.0) < 2e-30
        compiled.probabilities(row.numpy(), nothing, out)
        np.testing.assert_allclose(out, torch.sigmoid(row.double()).numpy(), rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("kind", ["poisson", "bernoulli"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("draw", [draw_decoded, draw_decoded_on_device])
def test_a_decoder_that_gives_no_numbers_is_refused(monkeypatch, draw, kind, wrong, last, keys_of):
    monkeypatch.setattr(on_device, "DENSE", 100 * GENES)
    hidden, keys = torch.zeros(200, 32), torch.from_numpy(keys_of(200).view(np.int64))
    hidden[130, 5] = wrong
    with pytest.raises(ValueError, match="means of cell 130 of the batch"):
        draw(hidden, last, torch.zeros(200), keys, Distribution(kind))
