"""Several stores as one: the cells of the second come behind those of the first."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike, NDArray
from pandas.api.types import union_categoricals
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray, SchemaError
from loaders.arrays.interleaved import interleaved
from loaders.stores.store import CellStore, categorical


class StackedStore:
    """`CellStore` over stores that have the same features, whose order is that of the first.

    Raises SchemaError naming the first feature that one store has and another has not.
    """

    kind = "stacked"

    def __init__(self, stores: Sequence[CellStore]) -> None:
        for store in stores:
            require_unique_features(store)
        self.stores = tuple(stores)
        self.uri = " + ".join(store.uri for store in stores)
        self.features = stores[0].features
        self._columns = [_columns_of(store, stores[0]) for store in stores]
        self._begins = np.cumsum([0] + [store.n_cells for store in stores])
        self.n_cells = int(self._begins[-1])
        self.slab_cells = max(store.slab_cells for store in stores)
        # They may share the room for decoded cells: what one alone would keep can be relied on.
        decoding = (store.kept_cells for store in stores if store.slab_cells > 1)
        self.kept_cells = min(decoding, default=self.n_cells)

    @property
    def obs_columns(self) -> tuple[str, ...]:
        return tuple(
            name for name in self.stores[0].obs_columns if all(name in s.obs_columns for s in self.stores)
        )

    def obs_column(self, name: str) -> pd.Categorical:
        return categorical(union_categoricals([store.obs_column(name) for store in self.stores]))

    def obs_names(self, start: int, stop: int) -> NDArray[Any]:
        parts = [
            store.obs_names(max(start - begin, 0), min(stop - begin, store.n_cells))
            for store, begin in zip(self.stores, self._begins[:-1].tolist(), strict=True)
            if start < begin + store.n_cells and stop > begin
        ]
        return np.concatenate([np.empty(0, dtype=object), *parts])

    def read(self, rows: IntArray, *, dtype: DTypeLike | None = None) -> csr_matrix:
        of_row = np.searchsorted(self._begins, rows, side="right") - 1
        places = [np.flatnonzero(of_row == i) for i in range(len(self.stores))]
        parts = [self._read_part(i, rows[at], dtype) for i, at in enumerate(places) if len(at)]
        if len(parts) < 2:
            return parts[0] if parts else self._read_part(0, rows, dtype)
        return interleaved(parts, [at for at in places if len(at)])

    def _read_part(self, i: int, rows: IntArray, dtype: DTypeLike | None) -> csr_matrix:
        counts = self.stores[i].read(rows - self._begins[i], dtype=dtype)
        columns = self._columns[i]
        if columns is None:
            return counts
        moved = csr_matrix((counts.data, columns[counts.indices], counts.indptr), shape=counts.shape)
        moved.sort_indices()
        return moved

    def slab_of(self, rows: IntArray) -> IntArray:
        slabs, first = np.empty(len(rows), dtype=np.int64), 0
        of_row = np.searchsorted(self._begins, rows, side="right") - 1
        for i, store in enumerate(self.stores):
            slabs[of_row == i] = first + store.slab_of(rows[of_row == i] - self._begins[i])
            first += store.n_cells + 1
        return slabs

    def identity(self) -> dict[str, Any]:
        return {"stores": [store.identity() for store in self.stores]}

    def locate(self, row: int) -> tuple[CellStore, int]:
        """The store that holds a row, and the row within it."""
        i = int(np.searchsorted(self._begins, row, side="right")) - 1
        return self.stores[i], row - int(self._begins[i])


def require_unique_features(store: CellStore) -> None:
    """Raise ValueError naming the first feature name that occurs twice."""
    index = pd.Index(store.features, dtype=object)
    twice = index[index.duplicated()]
    if len(twice):
        places = np.flatnonzero(index == twice[0])[:2].tolist()
        raise ValueError(
            f"{store.uri} has {len(twice)} gene names more than once, first {twice[0]!r} at columns "
            f"{places[0]} and {places[1]}. Make them unique: adata.var_names_make_unique()."
        )


def _columns_of(store: CellStore, first: CellStore) -> IntArray | None:
    """Where each column of ``store`` stands in ``first``; None if it is where it was."""
    theirs, ours = store.features, first.features
    if theirs == ours:
        return None
    place = {name: i for i, name in enumerate(ours)}
    for one, other, names, known in ((store, first, theirs, place), (first, store, ours, set(theirs))):
        absent = next((name for name in names if name not in known), None)
        if absent is not None:
            raise SchemaError(
                f"{one.uri} has gene {absent!r} and {other.uri} has not. "
                f"Give all sources the same genes: anndata.concat(..., join='inner') does."
            )
    return np.array([place[name] for name in theirs], dtype=np.int32)
