"""Counts of a SOMA sparse matrix by slabs of cells: coordinates as stored become CSR, once a slab.

One row costs the decoding of every tile that holds a part of it, so a slab is the 2,048 joinids of a tile of
TileDB-SOMA's default layout, aligned to it. A decoded slab is a fraction of its two int64 coordinates a
count, and slabs are kept within the budget of a `BlockCache`.
"""

import threading
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.blocks import BlockCache

SLAB_CELLS = 2_048
SLABS_AT_ONCE = 4  # neighbouring slabs fetched by one query
PARTS = ("data", "indices", "indptr")


class CountSlabs:
    """Rows and columns of a matrix that is open for reading; safe to use from several threads.

    array   SOMASparseNDArray of two dimensions: cells, features
    rows    (N,) ascending joinids of the cells wanted
    columns (G,) ascending joinids of the features
    """

    def __init__(self, array: Any, rows: IntArray, columns: IntArray, *, cache: BlockCache) -> None:
        self._array = array
        self._rows = rows
        self._place_of_column = _lookup(columns, 0, int(columns[-1]) + 1)
        self._n_columns = len(columns)
        self._cache = cache
        self._querying = threading.Lock()
        self.dtype = np.dtype(array.schema.field("soma_data").type.to_pandas_dtype())

    def take(self, places: IntArray) -> csr_matrix:
        """Counts (m, G) of the wanted cells number ``places`` (m,), which must not descend."""
        slab_of = self._rows[places] // SLAB_CELLS
        parts = [csr_matrix((0, self._n_columns), dtype=self.dtype)]
        for run in _runs(np.unique(slab_of)):
            slabs = self._fetch(run)
            for slab in run:
                begin, end = np.searchsorted(slab_of, [slab, slab + 1])
                parts.append(slabs[slab][places[begin:end] - self._bounds(slab)[0]])
        return csr_matrix(sparse.vstack(parts, format="csr"))

    def _bounds(self, slab: int) -> tuple[int, int]:
        """First of the wanted cells that lie in a slab, and the one behind the last."""
        begin, end = np.searchsorted(self._rows, [slab * SLAB_CELLS, (slab + 1) * SLAB_CELLS])
        return int(begin), int(end)

    def _fetch(self, run: list[int]) -> dict[int, csr_matrix]:
        """Neighbouring slabs, those that are not kept by one query from the first to the last of them."""
        slabs = self._kept(run)
        if len(slabs) == len(run):
            return slabs
        # A query uses all cores by itself, and what another thread waits for is likely the same slab.
        with self._querying:
            slabs |= self._kept([slab for slab in run if slab not in slabs])
            missing = [slab for slab in run if slab not in slabs]
            if missing:
                slabs |= self._query(missing)
        return slabs

    def _kept(self, run: list[int]) -> dict[int, csr_matrix]:
        found = {slab: [self._cache.get((part, slab)) for part in PARTS] for slab in run}
        return {
            slab: csr_matrix(tuple(parts), shape=(len(parts[2]) - 1, self._n_columns))
            for slab, parts in found.items()
            if parts[0] is not None and parts[1] is not None and parts[2] is not None
        }

    def _query(self, missing: list[int]) -> dict[int, csr_matrix]:
        """Read the matrix from the first to the last of the slabs ``missing``, and keep these."""
        begin, end = self._bounds(missing[0])[0], self._bounds(missing[-1])[1]
        counts = self._read(begin, end)
        slabs = {}
        for slab in missing:
            first, last = self._bounds(slab)
            # A copy, so that a slab that is kept does not hold the whole run.
            slabs[slab] = counts[first - begin : last - begin].copy()
            for part in PARTS:
                self._cache.put((part, slab), getattr(slabs[slab], part))
        return slabs

    def _read(self, begin: int, end: int) -> csr_matrix:
        """Counts of the wanted cells ``begin`` .. ``end``, by a range of rows and no constraint on columns.

        In the order in which they are stored: sorting here costs less than a sorted result of the query.
        """
        first, last = int(self._rows[begin]), int(self._rows[end - 1])
        place_of_row = _lookup(self._rows[begin:end], first, last + 1)
        none = np.empty(0, dtype=np.int32)
        parts = [(none, none, none.astype(self.dtype))]
        for table in self._array.read((slice(first, last),)).tables():
            rows = place_of_row[table["soma_dim_0"].to_numpy() - first]
            wanted = slice(None) if (rows >= 0).all() else rows >= 0
            columns = self._columns_of(table["soma_dim_1"].to_numpy())
            parts.append((rows[wanted], columns[wanted], table["soma_data"].to_numpy()[wanted]))
        rows, columns, data = (np.concatenate(part) for part in zip(*parts, strict=True))
        # Building CSR from coordinates adds up repeated ones and sorts each row.
        return csr_matrix((data, (rows, columns)), shape=(end - begin, self._n_columns))

    def _columns_of(self, joinids: IntArray) -> NDArray[np.int32]:
        """Places of features; refuses one that var does not have."""
        if joinids.max(initial=0) < len(self._place_of_column):
            columns = self._place_of_column[joinids]
            if columns.min(initial=0) >= 0:
                return columns
        raise ValueError(
            f"{self._array.uri} has counts in columns that no row of var describes: the experiment is "
            f"damaged, or was being written while it was read."
        )


def _lookup(joinids: IntArray, first: int, stop: int) -> NDArray[np.int32]:
    """Place of each of first .. stop - 1 in ``joinids``, -1 where it is none of them."""
    places = np.full(stop - first, -1, dtype=np.int32)
    places[joinids - first] = np.arange(len(joinids), dtype=np.int32)
    return places


def _runs(slabs: IntArray) -> Iterator[list[int]]:
    """Runs of consecutive slabs, at most `SLABS_AT_ONCE` long."""
    for _, group in groupby(enumerate(slabs.tolist()), key=lambda item: item[1] - item[0]):
        run = [slab for _, slab in group]
        for begin in range(0, len(run), SLABS_AT_ONCE):
            yield run[begin : begin + SLABS_AT_ONCE]
