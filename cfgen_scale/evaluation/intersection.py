"""Do cells told two attributes have both, as one guidance weight grows? (paper Table 10)"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from .attribute_classifier import AttributeClassifier
from .basis import Basis
from .cells import EvaluationError
from .classification import total_variance
from .normalise import FloatArray

MIN_REAL_CELLS = 5
# total variance over that of the real intersection within which nothing has collapsed
VARIANCE_WITHIN = (0.8, 1.2)

Pair = tuple[str, str]
# (pair, weight of the first attribute, weight of the second, cells, seed) -> raw counts (cells, G)
DrawPair = Callable[[Pair, float, float, int, int], csr_matrix]


@dataclass(frozen=True)
class PairedCells:
    """Real cells with two attributes: counts (n, G) CSR; names (n, 2) str of their categories."""

    counts: csr_matrix
    names: NDArray[np.str_]

    def of(self, pair: Pair) -> NDArray[np.int64]:
        """Rows of the cells of an intersection, ascending."""
        return np.flatnonzero((self.names == np.array(pair)).all(axis=1))


@dataclass(frozen=True)
class IntersectionSettings:
    """What is drawn and how it is judged.

    cells                 drawn for each pair, weight and seed
    weight                of the attribute that does not grow
    growing               0 or 1: the attribute whose weight grows
    n_genes               variable genes of the components
    n_components          that the classifiers see; fitted on training cells
    variance_components   the first so many, in which total variance is taken
    """

    cells: int = 500
    weight: float = 1.0
    growing: int = 1
    n_genes: int = 2000
    n_components: int = 50
    variance_components: int = 30


@dataclass(frozen=True)
class Judges:
    """What judges cells: components and two classifiers, all of training cells."""

    basis: Basis
    classifiers: tuple[AttributeClassifier, AttributeClassifier]
    variance_components: int

    @staticmethod
    def fit(train: PairedCells, settings: IntersectionSettings) -> "Judges":
        basis = Basis.fit(train.counts, settings.n_genes, settings.n_components)
        points = basis.project(train.counts)
        first, second = (AttributeClassifier.fit(points, train.names[:, k]) for k in (0, 1))
        return Judges(basis, (first, second), settings.variance_components)

    def look(self, counts: csr_matrix, pair: Pair) -> dict[str, float]:
        """Mean probability of both categories, and total variance, of cells."""
        points = self.basis.project(counts)
        return {
            "probability_first": float(self.classifiers[0].probability(points, pair[0]).mean()),
            "probability_second": float(self.classifiers[1].probability(points, pair[1]).mean()),
            "variance": total_variance(points[:, : self.variance_components]),
        }


def intersection(
    draw: DrawPair,
    train: PairedCells,
    held_out: PairedCells,
    pairs: Sequence[Pair],
    *,
    weights: Sequence[float],
    seeds: Sequence[int] = (0, 1, 2),
    settings: IntersectionSettings | None = None,
    on_step: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Table 10's experiment: for each pair of categories and each of ``weights`` of the growing attribute,
    classifier probabilities and total variance of generated cells beside real held-out cells of the pair.

    Classifiers and components are fitted on ``train`` alone. A pair is "reached" by the first weight at which
    both probabilities are at least the real cells' and total variance is within VARIANCE_WITHIN of theirs.
    Raises EvaluationError, before anything is drawn, for a pair with fewer than 5 held-out cells or whose
    categories the classifiers could not learn.
    """
    settings = settings or IntersectionSettings()
    on_step("classifiers of training cells")
    judges = Judges.fit(train, settings)
    for pair in pairs:
        require_judged(pair, judges, held_out)
    points = judges.basis.project(held_out.counts)
    results = []
    for pair in pairs:
        on_step(f"{pair[0]} x {pair[1]}")
        results.append(_one_pair(draw, judges, train, held_out, pair, weights, seeds, settings))
    return {
        "classifier_accuracy": [
            judge.accuracy(points, held_out.names[:, k]) for k, judge in enumerate(judges.classifiers)
        ],
        "weights": list(weights),
        "seeds": list(seeds),
        "pairs": results,
    }


def require_judged(pair: Pair, judges: Judges, held_out: PairedCells) -> None:
    """Raise EvaluationError for a pair that real cells or classifiers are missing for."""
    for name, classifier in zip(pair, judges.classifiers, strict=True):
        if name not in classifier.categories:
            known = ", ".join(map(repr, classifier.categories))
            raise EvaluationError(
                f"no classifier knows {name!r}: it has too few training cells. Known: {known}."
            )
    if (n := len(held_out.of(pair))) < MIN_REAL_CELLS:
        raise EvaluationError(
            f"{n} held-out cells are {pair[0]!r} and {pair[1]!r}; at least {MIN_REAL_CELLS} are needed."
        )


def largest_pairs(cells: PairedCells, n: int) -> list[Pair]:
    """The ``n`` intersections with most cells, of different first categories as far as there are."""
    told = cells.names[(cells.names != "").all(axis=1)]
    pairs, sizes = np.unique(told, axis=0, return_counts=True)
    ordered = [(str(a), str(b)) for a, b in pairs[np.argsort(-sizes, kind="stable")]]
    times = {pair: sum(p[0] == pair[0] for p in ordered[:i]) for i, pair in enumerate(ordered)}
    return sorted(ordered, key=lambda pair: times[pair])[:n]


def _one_pair(
    draw: DrawPair,
    judges: Judges,
    train: PairedCells,
    held_out: PairedCells,
    pair: Pair,
    weights: Sequence[float],
    seeds: Sequence[int],
    settings: IntersectionSettings,
) -> dict[str, Any]:
    rows = held_out.of(pair)
    real = judges.look(held_out.counts[rows], pair) | {"cells": len(rows)}
    trained = train.of(pair)
    made = []
    for weight in weights:
        both = (weight, settings.weight) if settings.growing == 0 else (settings.weight, weight)
        looks = [judges.look(draw(pair, *both, settings.cells, seed), pair) for seed in seeds]
        made.append({"weight": weight} | _over_seeds(looks, real["variance"]))
    seen = None
    if len(trained) > 1:
        variance = judges.look(train.counts[trained], pair)["variance"]
        seen = {"cells": len(trained), "variance_ratio": variance / real["variance"]}
    return {
        "pair": list(pair),
        "real": real,
        "train": seen,
        "generated": made,
        "reached": _reached(made, real),
    }


def _over_seeds(looks: Sequence[dict[str, float]], real_variance: float) -> dict[str, float]:
    """Means over the seeds, their spread (ddof 1; 0 of one seed), and variance over the real one's."""
    figures: dict[str, FloatArray] = {
        name: np.array([look[name] for look in looks]) for name in ("probability_first", "probability_second")
    }
    figures["variance_ratio"] = np.array([look["variance"] for look in looks]) / real_variance
    ddof = 1 if len(looks) > 1 else 0
    means = {name: float(values.mean()) for name, values in figures.items()}
    return means | {f"{name}_spread": float(values.std(ddof=ddof)) for name, values in figures.items()}


def _reached(made: Sequence[dict[str, float]], real: dict[str, float]) -> float | None:
    """The first weight that reaches the real cells, or None."""
    low, high = VARIANCE_WITHIN
    for row in made:
        both = all(row[name] >= real[name] for name in ("probability_first", "probability_second"))
        if both and low <= row["variance_ratio"] <= high:
            return row["weight"]
    return None
