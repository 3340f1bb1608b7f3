"""Learning rate in cells, AdamW whose theta is not decayed, averaged weights."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from .config import StageConfig

THETA = "log_theta"
THETA_RATE = 10.0
FINAL_SHARE = 0.02


def learning_rate(config: StageConfig, cells_seen: int) -> float:
    """The learning rate after ``cells_seen`` cells: linear warm-up, then constant or a cosine."""
    warm = min(1.0, cells_seen / config.warmup_cells) if config.warmup_cells else 1.0
    if config.decay == "none":
        return config.learning_rate * warm
    progress = min(1.0, cells_seen / config.cells)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.learning_rate * warm * (FINAL_SHARE + (1.0 - FINAL_SHARE) * cosine)


def make_optimiser(network: nn.Module, config: StageConfig) -> torch.optim.AdamW:
    """AdamW; log theta at ten times the rate and without decay, since it moves by about the rate a step
    and has far to go (METHOD 8c)."""
    named = list(network.named_parameters())
    theta = [p for name, p in named if name.endswith(THETA)]
    others = [p for name, p in named if not name.endswith(THETA)]
    groups = [{"params": others, "weight_decay": config.weight_decay, "rate": 1.0}]
    if theta:
        groups.append({"params": theta, "weight_decay": 0.0, "rate": THETA_RATE})
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate"]


class AveragedWeights:
    """Exponential moving average of a network's parameters with a half-life in cells.

    While few cells were seen the average forgets faster (half-life at most a fifth of the cells seen),
    so that the first, untrained weights do not linger.
    """

    def __init__(self, network: nn.Module, half_life_cells: int) -> None:
        self.half_life_cells = half_life_cells
        self.weights = {name: p.detach().clone() for name, p in network.named_parameters()}

    @torch.no_grad()
    def update(self, parameters: Iterable[tuple[str, torch.Tensor]], cells: int, cells_seen: int) -> None:
        """Move towards the parameters after a batch of ``cells``; ``cells_seen`` counts it."""
        half_life = max(1.0, min(self.half_life_cells, cells_seen / 5))
        share = 1.0 - 0.5 ** (cells / half_life)
        current = dict(parameters)
        names = list(self.weights)
        torch._foreach_lerp_([self.weights[n] for n in names], [current[n].detach() for n in names], share)
