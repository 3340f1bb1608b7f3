"""A class-balanced order: rare kinds of cells come more often, common ones less. Integers only, no reading.

An epoch is n_cells draws, as many as there are cells, but with replacement: a cell of a rare class is drawn
several times an epoch, one of a common class not in every epoch. Every draw is addressed by (seed, epoch,
number of the draw), so that the promises of order.py hold: what a global batch holds does not depend
on the number of workers, and a run goes on from ``cells_seen`` alone.

Within its class a draw is not independent either. The class is walked in shuffled rounds of all its cells,
from one epoch into the next: at the end of any epoch, two cells of one class have been drawn equally often,
or one of them once more.
"""

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfgen_scale.types import IntArray
from loaders.streaming.order import BatchPlan, Order
from loaders.streaming.permutation import key, permute, subkey


@dataclass(frozen=True)
class Balance:
    """Draw the classes of attribute ``label`` in inverse proportion to their frequency, up to a cap.

    cap  the most by which a cell may outweigh one of the commonest class: the weight of a cell is
         min(cap, frequency of the commonest class / frequency of its class), so that 1 balances nothing and
         infinity gives all classes the same share. No cell is drawn more than ``cap`` times an epoch on
         average. Unlabelled cells are a class of their own.
    """

    label: str
    cap: float = 10.0

    def __post_init__(self) -> None:
        _require_cap(self.cap)


class BalancedOrder:
    """The sequence of batches in which the classes of cells have the shares that `draws_of_classes` says.

    ``classes`` (n_cells,) is any integer code of each place's class. Memory: 4 bytes per cell (8 from 2^31
    cells on) and a few numbers per class; a batch is computed in time proportional to its own size.
    """

    def __init__(
        self,
        classes: NDArray[np.integer[Any]],
        batch_cells: int,
        seed: int,
        lanes: int | None = None,
        *,
        cap: float,
    ) -> None:
        # The epoch's draws, class by class, are shuffled as the places of an unbalanced epoch are.
        self._sequence = Order(len(classes), batch_cells, seed, lanes)
        self._seed = seed
        narrow = np.int32 if len(classes) <= np.iinfo(np.int32).max else np.int64
        self._members = np.argsort(classes, kind="stable").astype(narrow)
        codes, cells = np.unique(classes, return_counts=True)
        self.classes: IntArray = codes.astype(np.int64)
        self.cells: IntArray = cells.astype(np.int64)
        self.draws = draws_of_classes(self.cells, cap)

    @property
    def n_cells(self) -> int:
        """Draws of an epoch: as many as there are cells."""
        return self._sequence.n_cells

    @property
    def steps_per_epoch(self) -> int:
        return self._sequence.steps_per_epoch

    def after(self, cells_seen: int) -> int:
        return self._sequence.after(cells_seen)

    def check_world(self, rank: int, world: int) -> None:
        self._sequence.check_world(rank, world)

    def batch(self, cells_seen: int, *, rank: int = 0, world: int = 1) -> BatchPlan:
        """Worker ``rank``'s share of the global batch that begins at ``cells_seen``; see `Order.batch`."""
        plan = self._sequence.batch(cells_seen, rank=rank, world=world)
        return replace(plan, places=self._places(cells_seen // self.n_cells, plan.places))

    def _places(self, epoch: int, draws: IntArray) -> IntArray:
        """Places (m,) of draws (m,) of an epoch: draws 0 .. draws[0] - 1 are the first class's, and so on."""
        ends = np.cumsum(self.draws)
        c = np.searchsorted(ends, draws, side="right")
        drawn_before = epoch * self.draws[c] + draws - (ends - self.draws)[c]
        rounds, within = np.divmod(drawn_before, self.cells[c])
        keys = subkey(subkey(key(self._seed, "balanced"), c), rounds)
        member = permute(within, self.cells[c], keys)
        first = (np.cumsum(self.cells) - self.cells)[c]
        return self._members[first + member].astype(np.int64)


def draws_of_classes(cells: IntArray, cap: float) -> IntArray:
    """How many of an epoch's draws (C,) each class gets, by its number of cells (C,); both sum to n_cells.

    A class of n_c cells gets a share proportional to n_c min(cap, max(n) / n_c) = min(cap n_c, max(n)),
    rounded to whole draws by largest remainder. Exact arithmetic: all machines round alike.
    """
    _require_cap(cap)
    most = int(cells.max())
    exact_cap = Fraction(min(cap, most))
    weights = [min(exact_cap * int(n), Fraction(most)) for n in cells]
    total, total_weight = int(cells.sum()), sum(weights)
    exact = [total * w / total_weight for w in weights]
    draws = [math.floor(x) for x in exact]
    by_remainder = sorted(range(len(draws)), key=lambda c: draws[c] - exact[c])
    for c in by_remainder[: total - sum(draws)]:
        draws[c] += 1
    return np.array(draws, dtype=np.int64)


def _require_cap(cap: float) -> None:
    if not cap >= 1:
        raise ValueError(
            f"cap must be at least 1, not {cap}: the most by which a cell of a rare class may outweigh one "
            f"of the commonest (1: no balancing; inf: all classes equally often)."
        )
