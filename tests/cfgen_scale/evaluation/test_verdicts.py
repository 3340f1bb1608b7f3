"""From figures to words."""

from typing import Any

import pytest

from cfgen_scale.evaluation.verdicts import (
    classes_without_floor,
    decided_by,
    distance_verdict,
    variance_verdict,
)


def metrics_with(ratio: float | None, *, train: int | None = 100) -> dict[str, Any]:
    floor = 4.0 if ratio is not None else None
    w2 = {"w2": {"value": 4.0 * (ratio or 1), "floor": floor, "ratio": ratio}}
    protocols = {"neutral": {"conditional_cell_weighted": w2, "per_class": {"B cells": w2}}}
    return {"protocols": protocols, "decided_by": decided_by(protocols), "cells": {"train": train}}


@pytest.mark.parametrize(
    ("ratio", "status"),
    [(0.9, "warning"), (0.99, "good"), (1.05, "good"), (1.2, "fair"), (2.0, "poor"), (None, "warning")],
)
def test_a_distance_is_judged_by_its_floor_and_below_it_is_a_warning(
    ratio: float | None, status: str
) -> None:
    assert distance_verdict(metrics_with(ratio)).status == status


@pytest.mark.parametrize(
    ("ratio", "status"),
    [(0.6, "warning"), (0.8, "fair"), (1.0, "good"), (1.4, "fair"), (3.0, "poor"), (None, "warning")],
)
def test_variance_is_judged_on_both_sides_and_collapse_is_a_warning(ratio: float | None, status: str) -> None:
    assert variance_verdict({"variance_ratio": {"cell_weighted": {"value": ratio}}}).status == status


def test_neutral_and_cell_weighted_decide_where_they_exist() -> None:
    conditional: dict[str, Any] = {"conditional_cell_weighted": {}, "unconditional": {}}
    assert decided_by({"legacy": {}, "centred": {}, "neutral": conditional})["protocol"] == "neutral"
    assert decided_by({"centred": conditional})["kind"] == "conditional_cell_weighted"
    assert decided_by({"centred": {"unconditional": {}}})["kind"] == "unconditional"


def test_classes_without_a_floor_are_named_where_there_should_be_one() -> None:
    assert classes_without_floor(metrics_with(None)) == ["B cells"]
    assert classes_without_floor(metrics_with(1.1)) == []
    assert classes_without_floor(metrics_with(None, train=None)) == []
