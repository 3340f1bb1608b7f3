"""A linear layer to as many outputs as there are genes, which is seldom a round number.

A CPU's matrix product writes rows that begin at odd addresses slowly: with 8,573 genes and a batch of 256 the
decoder's last layer takes 36 ms on one thread, 26 ms where each row begins on a cache line (27,997 genes: 127
and 86; AMD EPYC, MKL).

The bias of a gene is about its log share of all counts, -10 among 20,000 genes, where bfloat16 numbers are
0.0625 apart. Rounded to them, the means of genes were off by up to 4 %, each always to its own side. So the
product alone is rounded, and the bias is added to it in float32.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

CACHE_LINE = 16  # float32


class AlignedLinear(nn.Linear):
    """`nn.Linear` whose output (B, G) is float32 under autocast too, which takes the product alone in its own
    dtype; on a CPU in float32 its rows begin on cache lines."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled(x.device.type):
            return linear(x, self.weight) + self.bias  # bfloat16 + float32 is float32, in one pass
        if x.device.type != "cpu" or not self.out_features % CACHE_LINE:
            return super().forward(x)
        product: torch.Tensor = _AlignedProduct.apply(x, self.weight, self.bias)
        return product


class _AlignedProduct(torch.autograd.Function):
    """x @ weight.T + bias, in rows with room for whole cache lines."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        width = -(-len(weight) // CACHE_LINE) * CACHE_LINE
        out = x.new_empty(len(x), width)[:, : len(weight)]
        return torch.addmm(bias, x, weight.T, out=out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return grad @ weight, grad.T @ x, grad.sum(0)
