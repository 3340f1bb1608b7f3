"""An AnnData in memory as a store of cells: notebooks, tests, and data that a script has just made."""

import hashlib
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import DTypeLike, NDArray
from scipy import sparse
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.stores.identity import digest_of_names
from loaders.stores.store import categorical, pick_layer, require_column


class MemoryStore:
    """`CellStore` over an AnnData object; counts that are dense or CSC are converted once."""

    uri = "memory"
    kind = "memory"
    slab_cells = 1

    def __init__(
        self, adata: AnnData, *, layer: str | None = None, feature_column: str | None = None
    ) -> None:
        if adata.isbacked:
            raise ValueError("this AnnData is backed by a file: give the path of the file instead.")
        layers = tuple(str(name) for name in adata.layers if name is not None)
        pick_layer(layer, layers, has_x=adata.X is not None, uri="the AnnData")
        counts = adata.X if layer is None else adata.layers[layer]
        self._counts = csr_matrix(counts) if sparse.issparse(counts) else csr_matrix(np.asarray(counts))
        if not self._counts.has_canonical_format:
            self._counts = self._counts.copy()
            self._counts.sum_duplicates()
        self._obs = adata.obs
        self.n_cells = self.kept_cells = int(adata.n_obs)
        self.features: tuple[str, ...] = _features(adata.var, feature_column)

    @property
    def obs_columns(self) -> tuple[str, ...]:
        return tuple(map(str, self._obs.columns))

    def obs_column(self, name: str) -> pd.Categorical:
        require_column(name, self.obs_columns, "the AnnData")
        return categorical(self._obs[name].array)

    def obs_names(self, start: int, stop: int) -> NDArray[Any]:
        return np.asarray(self._obs.index[start:stop], dtype=object)

    def read(self, rows: IntArray, *, dtype: DTypeLike | None = None) -> csr_matrix:
        counts = self._counts[rows]
        return counts if dtype is None else counts.astype(dtype, copy=False)

    def slab_of(self, rows: IntArray) -> IntArray:
        return rows

    def identity(self) -> dict[str, Any]:
        content = hashlib.sha256()
        for part in (self._counts.indptr, self._counts.indices, self._counts.data):
            content.update(np.ascontiguousarray(part).tobytes())
        return {
            "cells": self.n_cells,
            "features": self._counts.shape[1],
            "names": digest_of_names(self.features),
            "sha256": content.hexdigest(),
        }


def _features(var: pd.DataFrame, column: str | None) -> tuple[str, ...]:
    """Names of the features: the index of var, or one of its columns."""
    if column is not None and column not in var:
        raise ValueError(
            f"the AnnData has no var column {column!r} to take the names of features from. Its columns: "
            f"{', '.join(map(str, var.columns)) or 'none at all'}; without one named, var_names are taken."
        )
    return tuple(map(str, var.index if column is None else var[column]))
