"""Which distribution the counts of a matrix have, beside their means."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..types import IntArray
from . import compiled

Kind = Literal["negative_binomial", "poisson", "bernoulli"]
CODES = {
    "negative_binomial": compiled.NEGATIVE_BINOMIAL,
    "poisson": compiled.POISSON,
    "bernoulli": compiled.BERNOULLI,
}


class Thetas:
    """Inverse dispersions (L, G) float64, all > 0, that are looked at once and drawn with again and again.

    Raises ValueError for one that is not finite and above 0, naming the feature.
    """

    def __init__(self, values: NDArray[np.float64]) -> None:
        wrong = ~(np.isfinite(values) & (values > 0))
        if wrong.any():
            level, feature = np.argwhere(wrong)[0]
            raise ValueError(
                f"theta of feature {feature} (level {level}) is {values[level, feature]}; it must be above 0 "
                "and finite. Has the training of this model diverged?"
            )
        self.values = np.ascontiguousarray(values, np.float64)
        self._copies: dict[torch.device, torch.Tensor] = {}

    def on(self, device: torch.device) -> torch.Tensor:
        """The same on a device, copied there once."""
        if device not in self._copies:
            self._copies[device] = torch.from_numpy(self.values).to(device)
        return self._copies[device]


@dataclass(frozen=True)
class Distribution:
    """Of the counts of B cells and G features.

    kind    negative_binomial: variance mu + mu^2 / theta (Eq. 9); poisson; bernoulli: 1 with probability mu
    theta   (L, G) float64, all > 0, or `Thetas`; of negative binomials
    levels  (B,) int64, the row of ``theta`` of each cell; None: the first
    """

    kind: Kind
    theta: NDArray[np.float64] | Thetas | None = None
    levels: IntArray | None = None

    @property
    def code(self) -> int:
        """What `compiled` calls the kind."""
        return CODES[self.kind]

    def of_cells(self, n_cells: int, n_features: int) -> tuple[Thetas, IntArray]:
        """The table of theta, one row of ones where there is none, and each cell's row (B,) int64 in it.

        Raises ValueError for a theta that does not fit, is missing or not above 0, naming the feature.
        """
        levels = np.zeros(n_cells, np.int64) if self.levels is None else self.levels
        if self.kind != "negative_binomial":
            return Thetas(np.ones((1, n_features))), np.zeros(n_cells, np.int64)
        given = self.theta.values if isinstance(self.theta, Thetas) else self.theta
        if given is None or given.ndim != 2 or given.shape[1] != n_features:
            shape = "none" if given is None else given.shape
            raise ValueError(f"negative binomials of {n_features} features need theta (L, G); it is {shape}.")
        thetas = self.theta if isinstance(self.theta, Thetas) else Thetas(given)
        if levels.shape != (n_cells,) or (n_cells and not 0 <= levels.min() <= levels.max() < len(given)):
            raise ValueError(f"{n_cells} cells need a row of theta each, from 0 to {len(given) - 1}.")
        return thetas, np.ascontiguousarray(levels, np.int64)

    def rows(self, rows: slice) -> "Distribution":
        """That of some of the cells."""
        return Distribution(self.kind, self.theta, None if self.levels is None else self.levels[rows])


def cannot_be(row: int, kind: Kind) -> ValueError:
    """The error for a row of means from which nothing can be drawn."""
    most = "1" if kind == "bernoulli" else f"2^{int(np.log2(compiled.LARGEST_MEAN))}"
    return ValueError(
        f"the means of cell {row} of the batch are not all numbers from 0 to {most}. Is its size factor too "
        "large, or has the training of this model diverged?"
    )
