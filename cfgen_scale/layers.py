"""Building blocks of the networks (METHOD 3 and 4)."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

# Hidden units (B, H) and the number of their layer -> the units that are left of them.
Dropout = Callable[[torch.Tensor, int], torch.Tensor]


class MLP(nn.Module):
    """Linear layers with LayerNorm and ELU between them; the last layer is linear alone.

    LayerNorm rather than the authors' BatchNorm: its result for a cell does not depend on the other cells
    of the batch, so training is the same for any number of workers and latents need no running statistics.

    ``first`` and ``last`` make these layers in place of `nn.Linear`; the first says what the input is.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        first: Callable[[int, int], nn.Module] = nn.Linear,
        last: Callable[[int, int], nn.Module] = nn.Linear,
    ) -> None:
        super().__init__()
        kinds = [first, *[nn.Linear] * (len(sizes) - 3), last][: len(sizes) - 1]
        layers: list[nn.Module] = []
        for kind, (n_in, n_out) in zip(kinds, itertools.pairwise(sizes), strict=True):
            layers += [kind(n_in, n_out), nn.LayerNorm(n_out), nn.ELU()]
        self.layers = nn.Sequential(*layers[:-2])

    def forward(self, x: Any, dropout: Dropout | None = None) -> torch.Tensor:
        """``dropout`` is given the units behind each ELU, and the layer's number."""
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if dropout is not None and isinstance(layer, nn.ELU):
                x = dropout(x, number)
        return x


class ScalarEmbedding(nn.Module):
    """A number per cell (time in [0, 1], a normalised log size factor) -> a vector: (B,) -> (B, width).

    Sinusoidal features of 1000 * x with periods up to 1e4 (METHOD 4), then a two-layer SiLU MLP.
    """

    frequencies: torch.Tensor

    def __init__(self, width: int, n_features: int = 128, max_period: float = 1e4) -> None:
        super().__init__()
        frequencies = torch.exp(-math.log(max_period) * torch.arange(n_features // 2) / (n_features // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(n_features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angles = 1000.0 * x.float()[:, None] * self.frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))


@dataclass(frozen=True)
class ConditionVectors:
    """The vectors c that B cells' networks are told: the ``distinct`` ones (U, C), and which of them is each
    cell's (B,); without ``of_cell`` every cell has its own."""

    distinct: torch.Tensor
    of_cell: torch.Tensor | None = None

    def through(self, layers: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """What ``layers`` make of each cell's vector (B, width); each distinct one goes through them once."""
        out = layers(self.distinct)
        return out if self.of_cell is None else out[self.of_cell]


class ConditionedBlock(nn.Module):
    """Residual block told of the condition: (B, H), c (B, C) -> (B, H) (METHOD 4).

    h + Linear0(SiLU(Linear(SiLU(h)) + Linear(SiLU(c)))), where Linear0 starts at zero, so that a new
    network is the identity here.
    """

    def __init__(self, width: int, condition_width: int) -> None:
        super().__init__()
        self.inward = nn.Linear(width, width)
        self.told = nn.Linear(condition_width, width)
        self.outward = nn.Linear(width, width)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)
        self.activation = nn.SiLU()

    def forward(self, h: torch.Tensor, c: ConditionVectors) -> torch.Tensor:
        mixed = self.inward(self.activation(h)) + c.through(lambda c: self.told(self.activation(c)))
        return h + self.outward(self.activation(mixed))


class LinearSkip(nn.Module):
    """W z, or where ``scaled_by`` is the width of the condition, each output times a number that it decides:
    (B, D), c (B, C) -> (B, D).

    W starts at zero and the numbers at one. Of normal data z_1 ~ N(m, s^2) the velocity is such a multiple of
    z, (t s^2 - (1 - t)) / (t^2 s^2 + (1 - t)^2), beside what does not depend on z.
    """

    def __init__(self, width: int, *, scaled_by: int | None) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.linear.weight)
        self.scale = None
        if scaled_by is not None:
            numbers = nn.Linear(scaled_by, width)
            nn.init.ones_(numbers.bias)
            self.scale = nn.Sequential(nn.SiLU(), numbers)

    def forward(self, z: torch.Tensor, c: ConditionVectors) -> torch.Tensor:
        straight: torch.Tensor = self.linear(z)
        return straight if self.scale is None else straight * c.through(self.scale)
