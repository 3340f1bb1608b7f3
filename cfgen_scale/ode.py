"""Integration of a velocity field through torchdyn, forwards (noise -> data) and backwards."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch

Solver = Literal["euler", "midpoint", "dopri5", "tsit5"]
FIXED_STEP = ("euler", "midpoint")


@dataclass(frozen=True)
class OdeConfig:
    """How the flow is integrated.

    solver      euler or midpoint: fixed steps, each cell's result independent of the others of its batch
                (the default for atlases); dopri5 or tsit5: adaptive, one error norm for the whole batch.
                torchdyn's rk4 is not offered: it is first order on fields that depend on time
    steps       number of steps of a fixed-step solver; beyond 5 of midpoint no figure of quality changes
                (tests/benchmarks/solvers.py), the default is twice that
    tolerance   absolute and relative, of an adaptive solver (the paper: dopri5 at 1e-5)
    guide_from, guide_to   times between which guidance acts, 0 being noise and 1 data; at other times
                the field has no guidance (guidance.py)
    """

    solver: Solver = "midpoint"
    steps: int = 10
    tolerance: float = 1e-5
    guide_from: float = 0.0
    guide_to: float = 1.0

    def __post_init__(self) -> None:
        if self.solver not in get_args(Solver):
            known = ", ".join(get_args(Solver))
            raise ValueError(f"unknown solver {self.solver!r}. Choose one of: {known}.")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}.")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be positive, not {self.tolerance}.")
        if not 0 <= self.guide_from <= self.guide_to <= 1:
            raise ValueError(
                f"guidance acts between two times in [0, 1], not from {self.guide_from} to {self.guide_to}."
            )


def integrate(
    field: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    z: torch.Tensor,
    *,
    start: float = 0.0,
    end: float = 1.0,
    config: OdeConfig = OdeConfig(),
) -> torch.Tensor:
    """Solve dz/dt = field(t, z) from ``start`` to ``end`` for z (B, D); returns z at ``end``, float32.

    ``end < start`` integrates backwards. The time is substituted, t = start + s (end - start) with s from
    0 to 1, because torchdyn evaluates a reversed field at a negative time when it guesses its first step.
    """
    from torchdyn.numerics import odeint

    span = end - start

    def along(s: torch.Tensor, z_s: torch.Tensor) -> torch.Tensor:
        return span * field(start + span * s, z_s)

    z = z.float()
    if config.solver in FIXED_STEP:
        grid = torch.linspace(0.0, 1.0, config.steps + 1, device=z.device)
        _, path = odeint(along, z, grid, solver=config.solver)
    else:
        grid = torch.tensor([0.0, 1.0], device=z.device)
        _, path = odeint(along, z, grid, solver=config.solver, atol=config.tolerance, rtol=config.tolerance)
    return path[-1]
