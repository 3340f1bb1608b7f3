"""Which labels occur, how often, and together: p(y) of the generative model (Eq. 5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .counter_draws import CounterDraws, shifted
from .types import NOT_TOLD, AtlasSchema, IntArray, SchemaError


@dataclass(frozen=True)
class LabelFrequencies:
    """Observed combinations of labels of the training cells: codes (J, K) int64 with their cells (J,)."""

    codes: IntArray
    cells: IntArray

    @staticmethod
    def of(joint_labels: Sequence[tuple[tuple[int, ...], int]], n_attributes: int) -> "LabelFrequencies":
        codes = np.array([c for c, _ in joint_labels], dtype=np.int64).reshape(
            len(joint_labels), n_attributes
        )
        return LabelFrequencies(codes, np.array([n for _, n in joint_labels], dtype=np.int64))

    def draw(
        self,
        n: int,
        schema: AtlasSchema,
        *,
        told: Mapping[str, str],
        untold: Sequence[str] = (),
        seed: int,
        index: int = 0,
        first: int = 0,
    ) -> IntArray:
        """Labels (n, K) int64 of the cells ``first`` to ``first + n`` of a batch: see `choose`. Those of each
        are a function of ``(seed, index)`` and its place in the batch."""
        uniform = uniform_of_cells(range(first, first + n), seed, index)
        return self.choose(uniform, schema, told=told, untold=untold)

    def choose(
        self,
        uniform: NDArray[np.float64],
        schema: AtlasSchema,
        *,
        told: Mapping[str, str],
        untold: Sequence[str] = (),
    ) -> IntArray:
        """Labels (n, K) int64 of n cells, each a function of its draw ``uniform`` (n,) of [0, 1).

        Attributes in ``told`` have that category; those in ``untold`` are -1; all others are drawn together
        from their observed combinations among the training cells that have the told categories. Raises
        SchemaError for unknown names, a category that no training cell has, or if no training cell has the
        told categories together with known others.
        """
        fixed = {schema.covariate_index(a): schema.covariate(a).code(c) for a, c in told.items()}
        self._require_trained(fixed, schema)
        hidden = [schema.covariate_index(a) for a in untold]
        drawn = [k for k in range(len(schema.covariates)) if k not in fixed and k not in hidden]
        labels = np.full((len(uniform), len(schema.covariates)), NOT_TOLD, dtype=np.int64)
        for k, code in fixed.items():
            labels[:, k] = code
        if drawn:
            fits = np.logical_and.reduce(
                [self.codes[:, k] == code for k, code in fixed.items()]
                + [self.codes[:, k] != NOT_TOLD for k in drawn]
            )
            if not fits.any():
                names = ", ".join(repr(schema.covariates[k].name) for k in drawn)
                raise SchemaError(
                    f"no training cell has {dict(told)} with known {names}, so {names} cannot be drawn. "
                    f"Tell a category of {names}, or leave it untold."
                )
            labels[:, drawn] = self._chosen(uniform, fits)[:, drawn]
        return labels

    def _require_trained(self, fixed: Mapping[int, int], schema: AtlasSchema) -> None:
        """Raise SchemaError for a category without training cells (of a donor held out, say)."""
        for k, code in fixed.items():
            if code not in self.codes[:, k]:
                covariate = schema.covariates[k]
                trained = [covariate.categories[c] for c in np.unique(self.codes[:, k]) if c != NOT_TOLD]
                raise SchemaError(
                    f"no training cell has {covariate.name!r} {covariate.categories[code]!r}, so the model "
                    f"has not learnt it. Tell one of: {', '.join(map(repr, trained))}."
                )

    def _chosen(self, uniform: NDArray[np.float64], fits: NDArray[np.bool_]) -> IntArray:
        share = np.cumsum(np.where(fits, self.cells, 0)) / self.cells[fits].sum()
        chosen = np.minimum(np.searchsorted(share, uniform, side="right"), np.flatnonzero(fits)[-1])
        return self.codes[chosen]

    def draw_levels(self, k: int, labels: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """Labels (B, K) with every -1 of attribute ``k`` drawn from that attribute's own proportions.

        ``uniform`` (B,) is a draw of [0, 1) a cell.
        """
        known = self.codes[:, k] != NOT_TOLD
        share = np.cumsum(np.bincount(self.codes[known, k], weights=self.cells[known]))
        level = np.searchsorted(share, uniform.double().numpy() * share[-1], side="right")
        filled = labels.clone()
        filled[:, k] = torch.where(labels[:, k] >= 0, labels[:, k], torch.from_numpy(level))
        return filled


def uniform_of_cells(places: range, seed: int, index: int) -> NDArray[np.float64]:
    """A draw of [0, 1) for each of the cells at ``places`` of the batch that (seed, index) says."""
    bits = CounterDraws(seed, "labels", index).bits("combinations", torch.arange(places.start, places.stop))
    return (shifted(bits, 11).double() * 2.0**-53).numpy()
