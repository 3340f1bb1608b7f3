"""Neutral distances over a grid of guidance weights (paper Fig. A14)."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from .cells import UNTOLD, CountedCells, EvaluationError
from .classification import variance_ratios
from .draws import scored_classes
from .figure_of_merit import Tree, merge
from .protocols import Bench, make_bench
from .scoring import cell_weighted, distances
from .settings import EvaluationSettings

# (class of each cell (n,), weights of the attributes, seed) -> raw counts (n, G)
DrawClasses = Callable[[Sequence[str], Sequence[float], int], csr_matrix]
KINDS = ("conditional", "conditional_cell_weighted", "unconditional")


def guidance_grid(
    draw: DrawClasses,
    train: CountedCells,
    held_out: CountedCells,
    *,
    weights: Sequence[Sequence[float]],
    seeds: Sequence[int] = (0, 1, 2),
    settings: EvaluationSettings | None = None,
    on_step: Callable[[str], None] = lambda message: None,
) -> list[dict[str, Any]]:
    """One row for each of the combinations of ``weights`` (one list an attribute), in their order.

    Classes are what is told: an attribute's category, or the intersection of several. For every seed as many
    cells of each class are drawn as are held out, and compared in the neutral protocol: ``{"weights", figures
    of KINDS and "variance_ratio"}``, with floors of real cells. Raises EvaluationError where no class has 2
    held-out cells.
    """
    settings = settings or EvaluationSettings()
    benches = {}
    for seed in seeds:
        on_step(f"seed {seed}: components of real cells and their floor")
        bench = make_bench(train, told_classes(held_out), seed=seed, settings=settings)
        assert bench.floor is not None, "there are training cells"
        benches[seed] = bench, _figures(bench.floor, bench, seed, settings)
    rows = []
    for combination in itertools.product(*weights):
        on_step(f"weights {', '.join(f'{w:g}' for w in combination)}")
        made = []
        for seed, (bench, _) in benches.items():
            counts = draw([str(name) for name in bench.test.classes], combination, seed)
            made.append(_figures(CountedCells(counts, bench.test.classes), bench, seed, settings))
        floors = [floor for _, floor in benches.values()]
        rows.append({"weights": list(combination)} | merge(made, floors))
    return rows


def told_classes(cells: CountedCells) -> CountedCells:
    """The cells of the classes with at least 2; raises EvaluationError where there are none."""
    names, sizes = np.unique(cells.classes, return_counts=True)
    kept = names[(sizes > 1) & (names != UNTOLD)]
    if len(kept) == 0:
        raise EvaluationError("no class has 2 held-out cells: there is nothing to compare guided cells with.")
    return cells.take(np.flatnonzero(np.isin(cells.classes, kept)))


def _figures(pool: CountedCells, bench: Bench, seed: int, settings: EvaluationSettings) -> Tree:
    neutral = bench.protocols[0]
    found = distances(pool, bench.test, neutral, seed=seed, settings=settings, unconditional=None)
    ratios = variance_ratios(
        neutral.place_pool(pool),
        pool,
        neutral.place_reference(bench.test),
        bench.test,
        scored_classes(pool, bench.test),
    )
    kinds = {kind: found[kind] for kind in KINDS if kind in found}
    return kinds | {"variance_ratio": cell_weighted(ratios, bench.test)}
