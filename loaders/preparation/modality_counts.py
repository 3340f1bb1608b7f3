"""Counts of one modality of a prepared atlas: packed, in place, or from a cache."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import DTypeLike
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray, Modality
from loaders.preparation.cell_cache import CellCache
from loaders.preparation.manifest import open_counts
from loaders.preparation.scan import column_lookup, select_columns
from loaders.stores.store import CellStore
from loaders.streaming.shuffled_blocks import Blocks

LEAST_CACHED = 64  # cells that are copied to a cache together, at least


class ModalityCounts:
    """Counts of ``modality`` of the atlas prepared at ``path``.

    manifest  of the atlas; entry: what it says of this modality
    rows      gives the row (n_cells,) of each cell in the sources of the first modality, which is its row in
              those of this one too, unless the index has others
    """

    def __init__(
        self,
        path: Path,
        modality: Modality,
        *,
        manifest: dict[str, Any],
        entry: dict[str, Any],
        index: zarr.Group,
        rows: Callable[[], IntArray],
    ) -> None:
        self.modality = modality
        self.store: CellStore = open_counts(path, manifest, entry)
        self._entry = entry
        self._index = index
        self._rows = rows
        columns: Any = index["columns"]
        self._lookup = column_lookup(columns[...], len(self.store.features))
        self.cache: CellCache | None = None

    def read(self, rows: IntArray, *, dtype: DTypeLike | None = None) -> csr_matrix:
        """Counts (m, G) of ``rows`` (m,) of the atlas, in that order, as stored or as ``dtype``; of a
        binarised modality all non-zeros are 1."""
        if self.cache is not None:
            return self.cache.read(rows, dtype=dtype)
        return self._read_stored(rows, dtype)

    def places(self, rows: IntArray) -> IntArray:
        """Rows of the store of counts."""
        return self.source_rows[rows] if self._entry["in_place"] else rows

    @cached_property
    def source_rows(self) -> IntArray:
        """(n_cells,) int64, the row of each cell in the sources of this modality."""
        if "source_rows" not in self._index:
            return self._rows()
        rows: Any = self._index["source_rows"]
        return np.asarray(rows[...], dtype=np.int64)

    def block_of(self, rows: IntArray, cells: int) -> IntArray:
        """Number of the block in which each of ``rows`` (m,) lies: what the store decodes at once, or as
        many of these as are about ``cells`` together."""
        return self.store.slab_of(self.places(rows)) // max(cells // self.store.slab_cells, 1)

    def open_cache(self, folder: Path, everything: IntArray, obs: Callable[[], pd.DataFrame]) -> None:
        """Read through a copy in ``folder`` from now on; ``everything`` (n_cells,) are all rows."""
        non_zeros: Any = self._index["non_zeros"]
        self.cache = CellCache(
            folder,
            read=self._read_stored,
            blocks=Blocks.of(self.block_of(everything, LEAST_CACHED)),
            features=self.modality.features,
            non_zeros=lambda: np.asarray(non_zeros[...], dtype=np.int64),
            largest_count=self._entry["largest_count"],
            obs=obs,
        )

    def _read_stored(self, rows: IntArray, dtype: DTypeLike | None) -> csr_matrix:
        counts = self.store.read(self.places(rows), dtype=dtype)
        counts = select_columns(counts, self._lookup, len(self.modality.features))
        if self._entry["stored_zeros"]:
            counts.eliminate_zeros()
        if self._entry["in_place"] and not self.modality.counted:
            counts.data[...] = 1  # a copy was binarised when it was written
        return counts
