"""Compositional guidance over several attributes: the one place that knows Eq. 8.

Let u(S) be the field that is told the attributes of the set S, and u() the one that is told none. Of these a
weight w_k for each attribute makes the field that is followed. Which of them there are depends on what the
flow was told in training (`VelocityConfig.attributes_told`):

"one"     u() and u({k}) are learnt, and Eq. 8 adds the pulls of single attributes::

              u~ = u() + sum_k w_k [u({k}) - u()]

"all"     u() and u(all) are learnt: there is one weight for all attributes together::

              u~ = u() + w [u(all) - u()]

"subset"  u(S) is learnt for every S. With weights sorted, w_1 >= w_2 >= ..., and w_{K+1} = 0::

              u~ = u() + sum_k (w_k - w_{k+1}) [u({1 .. k}) - u()]

The last (the Lovasz extension of S -> u(S), linear between the sets) contains the others. Weights of 1 for
the attributes of S and 0 for the rest give u(S), the field of their joint condition; equal weights give the
second line; where pulls add up, u(S) - u() = sum over S of u({k}) - u(), it is Eq. 8. It does not depend on
the order of the attributes and is continuous in the weights.

Guidance may act in an interval of times alone (Kynkaanniemi et al. 2024, arXiv 2404.07724). At other times a
positive weight is 1 and a negative one 0: attributes are told, and nothing is made more of them.
"""

from collections.abc import Callable, Sequence

import torch

from .flow import VelocityFunction
from .types import AttributesTold, Condition

Field = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Terms = list[tuple[float, tuple[int, ...]]]
ALWAYS = (0.0, 1.0)
ROUNDING = 1e-6  # times are float32


def guided_field(
    velocity: VelocityFunction,
    condition: Condition,
    weights: Sequence[float],
    *,
    told: AttributesTold = "one",
    interval: tuple[float, float] = ALWAYS,
) -> Field:
    """The field u~(t, z) of B cells. All weights zero: the unconditional one; one of them 1: the conditional
    one of its attribute.

    ``weights`` (K,) holds one weight per attribute. A cell whose attribute k is -1 gets no pull from it. The
    terms with a non-zero coefficient are evaluated in one batched forward: ``t`` is a scalar, ``z`` (B, D).
    ``interval`` is that of the times at which guidance acts, ends included. Raises ValueError for weights
    that do not fit: see `require_weights`.
    """
    n_attributes = condition.labels.shape[1]
    if len(weights) != n_attributes:
        raise ValueError(f"{len(weights)} guidance weights for {n_attributes} attributes.")
    require_weights(told, weights)
    guided = _weighted_field(velocity, condition, weights, told)
    without = [float(weight > 0) for weight in weights]
    if interval == ALWAYS or without == list(weights):
        return guided
    plain = _weighted_field(velocity, condition, without, told)
    first, last = interval[0] - ROUNDING, interval[1] + ROUNDING
    return lambda t, z: guided(t, z) if first <= float(t) <= last else plain(t, z)


def _weighted_field(
    velocity: VelocityFunction, condition: Condition, weights: Sequence[float], told: AttributesTold
) -> Field:
    """The field of these weights at all times."""
    terms = _single_attributes(weights) if told == "one" else _nested_sets(weights)
    terms = [(coefficient, attributes) for coefficient, attributes in terms if coefficient != 0.0]
    conditions = [condition.only(*attributes) for _, attributes in terms]
    everyone = Condition(
        torch.cat([c.labels for c in conditions]), torch.cat([c.log_size_factor for c in conditions])
    )
    coefficients = torch.tensor([c for c, _ in terms], device=condition.labels.device)

    def field(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        n = len(terms)
        u = velocity(t.expand(n * len(z)), z.repeat(n, 1), everyone)
        return torch.tensordot(coefficients, u.view(n, *z.shape), dims=1)

    return field


def require_weights(told: AttributesTold, weights: Sequence[float]) -> None:
    """Raise ValueError where a model that was told all attributes, or none, is asked to weigh them apart."""
    if told == "all" and len(set(weights)) > 1:
        raise ValueError(
            f"this model was told all attributes of a cell or none, so that they have one guidance weight, "
            f"not {', '.join(f'{w:g}' for w in weights)} (an attribute left untold has 0). Give all the same "
            f"weight, or train with model.velocity.attributes_told=subset."
        )


def _single_attributes(weights: Sequence[float]) -> Terms:
    """Coefficients of u() and of each u({k})."""
    return [(1.0 - sum(weights), ()), *((weight, (k,)) for k, weight in enumerate(weights))]


def _nested_sets(weights: Sequence[float]) -> Terms:
    """Coefficients of u() and of each u({1 .. k}), attributes in the order of falling weights."""
    order = sorted(range(len(weights)), key=lambda k: -weights[k])
    falling = [1.0, *(weights[k] for k in order), 0.0]
    return [(falling[n] - falling[n + 1], tuple(order[:n])) for n in range(len(falling) - 1)]
