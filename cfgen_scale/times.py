"""At which times of the path the flow is trained: stratified over each batch, of a distribution on [0, 1]."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from .counter_draws import CounterDraws

TimeDistribution = Literal["uniform", "logit_normal", "beta"]


@dataclass(frozen=True)
class TimesConfig:
    """How often the flow is trained at which times; t = 0 is noise, t = 1 data.

    distribution      "uniform" (Algorithm 1); "logit_normal": logit t is normal, so that the middle of the
                      path is seen more often than its ends; "beta"
    location, scale   mean and standard deviation of logit t
    alpha, beta       of the density t^(alpha - 1) (1 - t)^(beta - 1)
    """

    distribution: TimeDistribution = "uniform"
    location: float = 0.0
    scale: float = 1.0
    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        if self.distribution not in get_args(TimeDistribution):
            known = ", ".join(get_args(TimeDistribution))
            raise ValueError(f"unknown distribution of times {self.distribution!r}. Choose one of: {known}.")
        for name in ("scale", "alpha", "beta"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, not {getattr(self, name)}.")
        if not math.isfinite(self.location):
            raise ValueError(f"location must be finite, not {self.location}.")


UNIFORM = TimesConfig()


def draw_times(
    draws: CounterDraws, positions: torch.Tensor, n: int, config: TimesConfig = UNIFORM
) -> torch.Tensor:
    """Times (m,) float32 in [0, 1] of the cells at ``positions`` (m,) int64 of a batch of ``n``.

    Stratified: one draw in each of n intervals of equal probability; the cell at position i has interval
    a i + b modulo n, where a, prime to n, and b are drawn for the batch.
    """
    a, b = 1 + draws.number("stride") % n, draws.number("first interval") % n
    while math.gcd(a, n) > 1:
        a = a % n + 1
    return quantiles(((positions * a + b) % n + draws.uniform("time", positions)) / n, config)


def quantiles(probability: torch.Tensor, config: TimesConfig) -> torch.Tensor:
    """The time (n,) before which ``probability`` (n,) of the times lie, both float32."""
    match config.distribution:
        case "uniform":
            return probability
        case "logit_normal":
            normal = torch.special.ndtri(probability.double())
            return torch.sigmoid(config.location + config.scale * normal).float()
        case "beta":
            from scipy.special import betaincinv

            # PyTorch has no inverse of the incomplete beta function.
            times = betaincinv(config.alpha, config.beta, probability.double().cpu().numpy())
            return torch.from_numpy(times).float().to(probability.device)
