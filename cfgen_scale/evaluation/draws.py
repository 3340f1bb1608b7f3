"""Which cells meet in a comparison: as many of each class as the test cells have, drawn for each repeat."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .cells import CountedCells

MIN_CELLS_OF_A_CLASS = 2
Rows = NDArray[np.int64]

# the addresses of the draws, beside the seed; those of all figures quoted for these measures
_WHOLE_SETS = 77
_SAME_CLASSES = 9


def scored_classes(pool: CountedCells, test: CountedCells) -> list[str]:
    """Classes of the test cells with at least 2 cells on both sides, sorted."""
    return [
        name
        for name in test.class_names()
        if min(len(pool.of_class(name)), len(test.of_class(name))) >= MIN_CELLS_OF_A_CLASS
    ]


def pairs_by_class(
    pool: CountedCells, test: CountedCells, *, seed: int, repeat: int, max_cells: int
) -> Iterator[tuple[str, Rows, Rows]]:
    """(class, rows of the pool, rows of the test cells) of each scored class; no more of the pool than of
    the test cells."""
    random = np.random.default_rng([seed, repeat])
    for name in scored_classes(pool, test):
        of_test = random.permutation(test.of_class(name))[:max_cells]
        of_pool = random.permutation(pool.of_class(name))[: len(of_test)]
        yield name, of_pool, of_test


def pair_of_sets(n_pool: int, n_test: int, *, seed: int, repeat: int, max_cells: int) -> tuple[Rows, Rows]:
    """Rows of the pool and of the test cells, whatever their class; no more of the pool than of test."""
    random = np.random.default_rng([seed, _WHOLE_SETS, repeat])
    of_test = random.permutation(n_test)[:max_cells]
    return random.permutation(n_pool)[: len(of_test)], of_test


def same_classes(pool: CountedCells, test: CountedCells, *, seed: int) -> Rows:
    """Rows of the pool with as many cells of each class as the test cells have, or all there are of it.

    Where no class is shared (cells generated without telling any), as many rows as there are test cells.
    """
    shared = set(pool.class_names()) & set(test.class_names())
    if not shared:
        return np.random.default_rng(seed).permutation(len(pool))[: len(test)]
    random = np.random.default_rng([seed, _SAME_CLASSES])
    drawn = [
        random.permutation(pool.of_class(name))[: len(test.of_class(name))] for name in test.class_names()
    ]
    return np.concatenate(drawn)
