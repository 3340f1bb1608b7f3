"""A further modality of cells: another store whose cells are found by their names."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.stores.stacked_store import StackedStore
from loaders.stores.store import CellStore, names_of_all


class AlignedStore:
    """The cells of ``store`` in the order of those of ``first``: what `scan` asks of a store.

    ``rows`` (n_cells,) int64 are the rows of ``store``; cells that ``first`` has not are left out. Raises
    ValueError naming the first cell that ``store`` lacks, or whose name occurs twice.
    """

    def __init__(self, store: StackedStore, first: StackedStore) -> None:
        self.uri, self.stores = store.uri, store.stores
        self.features = store.features
        self.n_cells = first.n_cells
        self._store = store
        self.rows = _rows(store, first)

    def read(self, rows: IntArray) -> csr_matrix:
        """Counts (m, G) of ``rows`` (m,) of the first modality."""
        return self._store.read(self.rows[rows])

    @property
    def is_in_order(self) -> bool:
        """Whether its cells lie in the order of those of the first modality."""
        return bool((np.diff(self.rows) > 0).all())

    def locate(self, row: int) -> tuple[CellStore, int]:
        """The store that holds a row of the first modality, and the row within it."""
        return self._store.locate(int(self.rows[row]))


def _rows(store: StackedStore, first: StackedStore) -> IntArray:
    theirs, wanted = (_names(each) for each in (store, first))
    rows = theirs.get_indexer(wanted)
    lacking = np.flatnonzero(rows < 0)
    if len(lacking):
        raise ValueError(
            f"{store.uri} has not {len(lacking):,} of the {len(wanted):,} cells of {first.uri}, first "
            f"{wanted[lacking[0]]!r}. Modalities are of the same cells, found by name: leave out the cells "
            f"that were not measured in both, or make the names the same."
        )
    return np.asarray(rows, dtype=np.int64)


def _names(store: StackedStore) -> "pd.Index[Any]":
    names = pd.Index(names_of_all(store), dtype=object)
    twice = names[names.duplicated()]
    if len(twice):
        raise ValueError(
            f"{store.uri} has {len(twice)} names of cells more than once, first {twice[0]!r}: cells of "
            f"several modalities are found by their names. Make them unique: adata.obs_names_make_unique()."
        )
    return names
