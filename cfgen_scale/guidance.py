"""Compositional guidance over several attributes: the one place that knows Eq. 8."""

from collections.abc import Callable, Sequence

import torch

from .flow import VelocityFunction
from .types import Condition

Field = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def guided_field(velocity: VelocityFunction, condition: Condition, weights: Sequence[float]) -> Field:
    """The field u~(t, z) = u(z) + sum_k w_k [u(z | y_k) - u(z)] for B cells (paper Eq. 8).

    ``weights`` (K,) holds one weight per attribute. All zero: the unconditional field. One attribute with
    weight 1: the conditional field. A cell whose attribute k is -1 gets no pull from it. The terms with a
    non-zero coefficient are evaluated in one batched forward: ``t`` is a scalar, ``z`` (B, D).
    """
    if len(weights) != condition.labels.shape[1]:
        raise ValueError(f"{len(weights)} guidance weights for {condition.labels.shape[1]} attributes.")
    terms = [(1.0 - sum(weights), condition.untold())]
    terms += [(weight, condition.only(k)) for k, weight in enumerate(weights)]
    terms = [(coefficient, told) for coefficient, told in terms if coefficient != 0.0]
    told = Condition(
        torch.cat([c.labels for _, c in terms]), torch.cat([c.log_size_factor for _, c in terms])
    )
    coefficients = torch.tensor([c for c, _ in terms], device=condition.labels.device)

    def field(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        n = len(terms)
        u = velocity(t.expand(n * len(z)), z.repeat(n, 1), told)
        return torch.tensordot(coefficients, u.view(n, *z.shape), dims=1)

    return field
