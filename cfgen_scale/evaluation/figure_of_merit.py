"""A figure over several seeds: its value, its spread, and what real cells reach."""

import math
from typing import Any

import numpy as np

Tree = dict[str, Any]


def merge(generated: list[Tree], floor: list[Tree]) -> Tree:
    """Trees of floats, one a seed, into one tree of figures of the same shape.

    A leaf becomes ``{"value", "spread", "floor", "floor_spread", "ratio"}``: the mean and the standard
    deviation (ddof 1) over the seeds, the same of real cells, and value / floor. None stands where there is
    none: the spread of one seed, a floor without training cells, the ratio to a floor that is not positive,
    NaN. A ratio says nothing where the floor is 0 but for noise, as that of the unbiased MMD.
    """
    merged: Tree = {}
    for key in _keys(generated):
        values, floors = _children(generated, key), _children(floor, key)
        merged[key] = merge(values, floors) if isinstance(values[0], dict) else figure(values, floors)
    return merged


def figure(values: list[float], floors: list[float]) -> dict[str, float | None]:
    """One leaf of the merged tree."""
    value, spread = _mean_and_spread(values)
    floor, floor_spread = _mean_and_spread(floors)
    ratio = None
    if value is not None and floor is not None and floor > 0:
        ratio = value / floor
    return {
        "value": value,
        "spread": spread,
        "floor": floor,
        "floor_spread": floor_spread,
        "ratio": ratio,
    }


def _keys(trees: list[Tree]) -> list[str]:
    return list(dict.fromkeys(key for tree in trees for key in tree))


def _children(trees: list[Tree], key: str) -> list[Any]:
    return [tree[key] for tree in trees if key in tree]


def _mean_and_spread(values: list[float]) -> tuple[float | None, float | None]:
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return None, None
    return float(np.mean(finite)), float(np.std(finite, ddof=1)) if len(finite) > 1 else None
