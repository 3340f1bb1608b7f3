"""Rows of counts from a SOMA matrix: the coordinates that are stored become CSR, once a slab.

One row costs the decoding of every tile that holds a part of it, so a slab is the 2,048 joinids of a tile of
TileDB-SOMA's default layout, aligned to it. Decoded slabs are kept, in the narrowest types that hold their
numbers, while there is room. Queries ask for no order of the result: sorted ones take ten times as long.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.arrays.interleaved import interleaved
from loaders.arrays.kept import Kept
from loaders.arrays.reused_memory import REUSED
from loaders.arrays.runs import Runs
from loaders.layout import index_dtype
from loaders.stores.coordinates import NarrowRows, narrow_rows
from loaders.stores.soma_errors import readable

SLAB_CELLS = 2_048
SLABS_TOGETHER = 64  # that one thread holds at a time, kept or not
SLABS_AT_ONCE = 2  # that one thread has fetched before it lets others have their share


class CountSlabs:
    """Rows and columns of a matrix that is open for reading; safe to use from several threads.

    array         SOMASparseNDArray of two dimensions: cells, features
    rows          (N,) ascending joinids of the cells wanted
    columns       (G,) ascending joinids of the features
    budget_bytes  of decoded slabs that are kept
    """

    def __init__(self, array: Any, rows: IntArray, columns: IntArray, *, budget_bytes: int) -> None:
        self._array = array
        self._rows = rows
        self._place_of_column = _lookup(columns, 0, int(columns[-1]) + 1)
        self._n_columns = len(columns)
        self._kept: Kept[int, NarrowRows] = Kept(budget_bytes)
        self.dtype = np.dtype(array.schema.field("soma_data").type.to_pandas_dtype())

    def slab_of(self, places: IntArray) -> IntArray:
        """The slab in which each of the wanted cells ``places`` (m,) lies."""
        return self._rows[places] // SLAB_CELLS

    def take(self, places: IntArray, *, dtype: DTypeLike | None = None) -> csr_matrix:
        """Counts (m, G) of the wanted cells number ``places`` (m,), in the order asked for."""
        slab_of = self.slab_of(places)
        wanted = np.unique(slab_of)
        if len(wanted) > SLABS_TOGETHER:
            groups = [wanted[i : i + SLABS_TOGETHER] for i in range(0, len(wanted), SLABS_TOGETHER)]
            at_of_group = [np.flatnonzero(np.isin(slab_of, group)) for group in groups]
            return interleaved([self.take(places[at], dtype=dtype) for at in at_of_group], at_of_group)
        slabs = self._kept.get(wanted.tolist(), self._queried, at_once=SLABS_AT_ONCE)
        begins = np.empty(len(places), dtype=np.int64)
        lengths = np.zeros(len(places) + 1, dtype=np.int64)
        at_of = {number: np.flatnonzero(slab_of == number) for number in slabs}
        for number, at in at_of.items():
            within = places[at] - self._bounds(number)[0]
            begins[at] = slabs[number].ends[within]
            lengths[at + 1] = slabs[number].ends[within + 1] - begins[at]
        ends = np.cumsum(lengths)
        of_indices = index_dtype(int(ends[-1]), self._n_columns)
        indices, data = REUSED.empty(ends[-1], of_indices), REUSED.empty(ends[-1], dtype or self.dtype)
        for number, at in at_of.items():
            runs = Runs(begins[at], lengths[at + 1], ends[at])
            runs.copy(slabs[number].indices, indices)
            runs.copy(slabs[number].data, data)
        counts = csr_matrix((data, indices, ends.astype(of_indices)), shape=(len(places), self._n_columns))
        counts.has_canonical_format = True
        return counts

    def _bounds(self, slab: int) -> tuple[int, int]:
        """Places of the first wanted cell of a slab, and of that behind the last."""
        begin, end = np.searchsorted(self._rows, (slab * SLAB_CELLS, (slab + 1) * SLAB_CELLS)).tolist()
        return begin, end

    def _queried(self, slabs: list[int]) -> dict[int, NarrowRows]:
        return {slab: self._read(*self._bounds(slab)) for slab in slabs}

    def _read(self, begin: int, end: int) -> NarrowRows:
        """Counts of the wanted cells ``begin`` .. ``end``: a range of rows, no constraint on columns."""
        first, last = int(self._rows[begin]), int(self._rows[end - 1])
        names = ("soma_dim_0", "soma_dim_1", "soma_data")
        with readable(self._array.uri):
            tables = [
                tuple(table[name].to_numpy() for name in names)
                for table in self._array.read((slice(first, last),)).tables()
            ]
        counts = narrow_rows(
            tables,
            first_row=first,
            place_of_row=_lookup(self._rows[begin:end], first, last + 1),
            place_of_column=self._place_of_column,
            shape=(end - begin, self._n_columns),
            dtype=self.dtype,
        )
        if counts is None:
            raise ValueError(
                f"{self._array.uri} has counts in columns that no row of var describes: the experiment is "
                f"damaged, or was being written while it was read."
            )
        return counts


def _lookup(joinids: IntArray, first: int, stop: int) -> NDArray[np.int32]:
    """Place of each of first .. stop - 1 in ``joinids``, -1 where it is none of them."""
    places = np.full(stop - first, -1, dtype=np.int32)
    places[joinids - first] = np.arange(len(joinids), dtype=np.int32)
    return places
