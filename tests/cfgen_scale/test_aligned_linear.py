"""It is a linear layer: value, gradient and autocast."""

import pytest
import torch

from cfgen_scale.aligned_linear import AlignedLinear


@pytest.mark.parametrize("n_out", [5, 16, 33])
@pytest.mark.parametrize("n", [4, 1, 0])
def test_value_and_gradients_are_a_linear_layers(n, n_out):
    aligned, plain = AlignedLinear(7, n_out), torch.nn.Linear(7, n_out)
    plain.load_state_dict(aligned.state_dict())
    x = torch.randn(n, 7, requires_grad=True)
    weights = torch.randn(n, n_out)
    found = []
    for layer in (aligned, plain):
        y = layer(x)
        found.append((y, *torch.autograd.grad((y * weights).sum(), (x, layer.weight, layer.bias))))
    torch.testing.assert_close(*found)


def test_rows_begin_on_cache_lines():
    assert AlignedLinear(7, 33)(torch.randn(4, 7)).stride() == (48, 1)


def test_gradient_is_the_slope():
    layer = AlignedLinear(3, 5).double()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_autocast_rounds_the_product_and_not_the_bias():
    layer, x = AlignedLinear(7, 33), torch.randn(4, 7)
    with torch.no_grad():
        layer.bias.sub_(10.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    product = (x.bfloat16() @ layer.weight.T.bfloat16()).float()
    torch.testing.assert_close(y, product + layer.bias, rtol=0, atol=1e-6)
    assert (product - x @ layer.weight.T).abs().max() > 1e-5, "the product is rounded"
    y.sum().backward()
    assert layer.bias.grad.tolist() == [4.0] * 33
    assert layer.weight.grad.dtype == torch.float32
