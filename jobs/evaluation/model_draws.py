"""Cells of a model for the protocols: categories and guidance weights in, counts out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix, vstack

from cfgen_scale.types import NOT_TOLD, Modality, SchemaError

if TYPE_CHECKING:
    from cfgen_scale.model import CFGen

BATCH_CELLS = 1024


class ModelDraws:
    """Draws counts of one modality for cells told some attributes; all other attributes are untold.

    The same seed draws the same noise whatever the weights, so that weights are compared on equal draws.
    Raises SchemaError for attributes or a modality that the model does not have.
    """

    def __init__(self, model: CFGen, attributes: Sequence[str], modality: str | None = None) -> None:
        self.model, self.attributes = model, tuple(attributes)
        self._columns = [model.schema.covariate_index(name) for name in attributes]
        names = [m.name for m in model.schema.modalities]
        if modality is not None and modality not in names:
            raise SchemaError(f"the model has no modality {modality!r}. It has {', '.join(names)}.")
        self._place = 0 if modality is None else names.index(modality)

    @property
    def modality(self) -> Modality:
        return self.model.schema.modalities[self._place]

    def __call__(
        self, categories: Sequence[Sequence[str]], weights: Sequence[float], seed: int
    ) -> csr_matrix:
        """Raw counts (n, G) CSR of n cells told ``categories`` (n, attributes), under ``weights``."""
        schema = self.model.schema
        labels = np.full((len(categories), len(schema.covariates)), NOT_TOLD, dtype=np.int64)
        guidance = [0.0] * len(schema.covariates)
        for place, (column, weight) in enumerate(zip(self._columns, weights, strict=True)):
            covariate = schema.covariates[column]
            codes = {name: covariate.code(name) for name in {cell[place] for cell in categories}}
            labels[:, column] = [codes[cell[place]] for cell in categories]
            guidance[column] = float(weight)
        parts = [
            self.model.generate_cells(
                labels[first : first + BATCH_CELLS], guidance=guidance, seed=seed, index=index
            ).counts[self._place]
            for index, first in enumerate(range(0, len(labels), BATCH_CELLS))
        ]
        return vstack(parts, format="csr").astype(np.float64)
