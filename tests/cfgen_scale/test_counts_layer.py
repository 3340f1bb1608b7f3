"""The sparse first layer is the dense one, in value and gradient."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, random_array

from cfgen_scale import counts_layer
from cfgen_scale.counts import SparseCounts
from cfgen_scale.counts_layer import CountsLinear


def drawn(n=9, g=50, density=0.1):
    counts = csr_matrix(random_array((n, g), density=density, rng=np.random.default_rng(0)))
    counts.data = np.ceil(9 * counts.data)
    return SparseCounts.from_csr(counts)


def value_and_gradients(layer, counts):
    layer.zero_grad()
    value = layer(counts)
    (value * torch.arange(value.numel()).view_as(value)).sum().backward()
    return value, layer.weight.grad.clone(), layer.bias.grad.clone()


@pytest.fixture
def sparse_products(monkeypatch):
    """How often the sparse product was taken."""
    taken = []
    original = counts_layer._SparseTimesDense.apply
    spied = lambda *given: taken.append(1) or original(*given)  # noqa: E731
    monkeypatch.setattr(counts_layer._SparseTimesDense, "apply", spied)
    return taken


@pytest.mark.parametrize("n", [9, 1, 0])
def test_non_zeros_alone_give_the_dense_product(n, sparse_products, monkeypatch):
    layer, counts = CountsLinear(50, 6), drawn(n)
    ours = value_and_gradients(layer, counts)
    assert sparse_products
    monkeypatch.setattr(counts_layer, "SPARSE_BELOW", 0.0)
    torch.testing.assert_close(ours, value_and_gradients(layer, counts), rtol=1e-5, atol=1e-5)
    assert len(sparse_products) == 1
    by_hand = counts.dense().log1p() @ layer.weight + layer.bias
    torch.testing.assert_close(ours[0], by_hand)


def test_a_dense_batch_is_multiplied_densely(sparse_products):
    counts = drawn(density=0.5)
    layer = CountsLinear(50, 6)
    torch.testing.assert_close(layer(counts), counts.dense().log1p() @ layer.weight + layer.bias)
    assert not sparse_products


def test_gradient_of_the_weight_is_the_slope():
    layer, counts = CountsLinear(12, 3).double(), drawn(4, 12)
    assert torch.autograd.gradcheck(
        lambda weight: counts_layer._SparseTimesDense.apply(
            weight, counts.values.double(), counts.features, counts.begins
        ),
        (layer.weight,),
    )


def test_it_starts_as_a_linear_layer_does():
    torch.manual_seed(3)
    layer = CountsLinear(40, 5)
    torch.manual_seed(3)
    linear = torch.nn.Linear(40, 5)
    assert torch.equal(layer.weight, linear.weight.T)
    assert torch.equal(layer.bias, linear.bias)


@pytest.mark.parametrize("dense", [False, True])
def test_each_expressed_gene_adds_a_vector_of_its_own(dense, monkeypatch):
    if dense:
        monkeypatch.setattr(counts_layer, "SPARSE_BELOW", 0.0)
    layer, counts = CountsLinear(50, 6, identities=True), drawn()
    x = counts.dense()
    expected = x.log1p() @ layer.weight + (x > 0).float() @ layer.identity + layer.bias
    torch.testing.assert_close(layer(counts), expected)
    slope = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    (layer(counts) * slope).sum().backward()
    torch.testing.assert_close(layer.identity.grad, (x > 0).float().T @ slope, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.weight.grad, x.log1p().T @ slope, rtol=1e-4, atol=1e-5)
