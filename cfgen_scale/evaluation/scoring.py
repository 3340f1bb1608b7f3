"""One set of cells, generated or real, scored against one bench: a tree of plain numbers."""

import math
from collections import defaultdict
from typing import Any

import numpy as np

from .cells import CountedCells
from .classification import two_sample_auc, variance_ratios
from .dispersion import dispersion_gaps
from .distances import DISTANCES, compare
from .draws import pair_of_sets, pairs_by_class, same_classes, scored_classes
from .manifolds import manifolds
from .markers import marker_correlations
from .moments import moments
from .normalise import FloatArray
from .protocols import Bench, Protocol
from .settings import EvaluationSettings

Scores = dict[str, Any]


def score(
    pool: CountedCells,
    bench: Bench,
    *,
    seed: int,
    settings: EvaluationSettings,
    unconditional: CountedCells | None = None,
) -> Scores:
    """Every figure of ``pool`` against the test cells of ``bench``.

    ``unconditional`` is a separate set for the unconditional distances; without it they are of ``pool``.
    Returns ``{"protocols": {name: distances}, "moments", "two_sample_auc", "manifolds", "variance_ratio",
    "dispersion", "markers"}`` with floats (NaN where a figure is not defined) as leaves; "markers" is absent
    where the bench has none, "dispersion" where no class is large enough. Moments, classifiers, manifolds and
    markers see as many cells of each class as the test cells have; classifiers, manifolds and variances work
    in the space of the first protocol.
    """
    matched = same_classes(pool, bench.test, seed=seed)
    first = bench.protocols[0]
    placed, placed_test = first.place_pool(pool), first.place_reference(bench.test)
    classes = scored_classes(pool, bench.test)
    ratios = variance_ratios(placed, pool, placed_test, bench.test, classes)
    scores: Scores = {
        "protocols": {
            protocol.name: distances(
                pool, bench.test, protocol, seed=seed, settings=settings, unconditional=unconditional
            )
            for protocol in bench.protocols
        },
        "moments": moments(pool.counts[matched], bench.test.counts),
        "two_sample_auc": two_sample_auc(
            placed[matched], placed_test, seed=seed, max_cells=settings.max_cells_auc
        ),
        "manifolds": manifolds(placed[matched], placed_test, seed=seed, max_cells=settings.max_cells_auc),
        "variance_ratio": {
            "per_class": ratios,
            "cell_weighted": cell_weighted(ratios, bench.test),
        },
    }
    if gaps := dispersion_gaps(pool, bench.test, classes):
        scores["dispersion"] = {"per_class": gaps, "cell_weighted": cell_weighted(gaps, bench.test)}
    if bench.markers is not None and classes:
        by_class = marker_correlations(pool.take(matched), bench.test, bench.markers, classes)
        defined = {name: r for name, r in by_class.items() if math.isfinite(r)}
        scores["markers"] = {"per_class": by_class, "cell_weighted": cell_weighted(defined, bench.test)}
    return scores


def distances(
    pool: CountedCells,
    test: CountedCells,
    protocol: Protocol,
    *,
    seed: int,
    settings: EvaluationSettings,
    unconditional: CountedCells | None,
) -> Scores:
    """The distances of one protocol.

    per_class                  {class: distances}, mean over the repeats
    conditional                mean over the classes, each counting the same
    conditional_cell_weighted  mean over the classes, each counting as its test cells
    unconditional              all cells, whatever their class
    The first three are absent where no class is shared.
    """
    placed, reference = protocol.place_pool(pool), protocol.place_reference(test)
    per_class = _by_class(pool, placed, test, reference, seed, settings)
    scores: Scores = {}
    if per_class:
        weights = [min(len(test.of_class(name)), settings.max_cells) for name in per_class]
        scores["per_class"] = per_class
        scores["conditional"] = _average(list(per_class.values()))
        scores["conditional_cell_weighted"] = _average(list(per_class.values()), weights)
    everything = placed if unconditional is None else protocol.place_pool(unconditional)
    scores["unconditional"] = _of_sets(everything, reference, seed, settings)
    return scores


def _by_class(
    pool: CountedCells,
    placed: FloatArray,
    test: CountedCells,
    reference: FloatArray,
    seed: int,
    settings: EvaluationSettings,
) -> dict[str, dict[str, float]]:
    repeats = defaultdict(list)
    for repeat in range(settings.repeats):
        for name, of_pool, of_test in pairs_by_class(
            pool, test, seed=seed, repeat=repeat, max_cells=settings.max_cells
        ):
            repeats[name].append(compare(placed[of_pool], reference[of_test]))
    return {name: _average(values) for name, values in repeats.items()}


def _of_sets(
    placed: FloatArray, reference: FloatArray, seed: int, settings: EvaluationSettings
) -> dict[str, float]:
    repeats = []
    for repeat in range(settings.repeats):
        of_pool, of_test = pair_of_sets(
            len(placed), len(reference), seed=seed, repeat=repeat, max_cells=settings.max_cells
        )
        repeats.append(compare(placed[of_pool], reference[of_test]))
    return _average(repeats)


def _average(values: list[dict[str, float]], weights: list[int] | None = None) -> dict[str, float]:
    return {name: float(np.average([v[name] for v in values], weights=weights)) for name in DISTANCES}


def cell_weighted(ratios: dict[str, float], test: CountedCells) -> float:
    """Mean over classes, each counting as its test cells; NaN of no class."""
    if not ratios:
        return float("nan")
    return float(np.average(list(ratios.values()), weights=[len(test.of_class(name)) for name in ratios]))
