"""Rows of counts from a SOMA matrix: the coordinates that are stored become CSR, once a slab.

One row costs the decoding of every tile that holds a part of it, so a slab is the 2,048 joinids of a tile of
TileDB-SOMA's default layout, aligned to it. Decoded slabs are kept, in the narrowest types that hold their
numbers, while there is room. Queries ask for no order of the result: sorted ones take ten times as long.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.coordinates import csr_of
from loaders.gather import frozen
from loaders.kept import Kept
from loaders.layout import index_dtype, narrowest_unsigned
from loaders.reused_memory import REUSED
from loaders.runs import Runs
from loaders.soma_errors import readable

SLAB_CELLS = 2_048
SLABS_AT_ONCE = 2  # that one thread has fetched before it lets others have their share


@dataclass(frozen=True)
class Slab:
    """Decoded rows: ends (r + 1,) of each, narrow indices and data; read-only."""

    first: int
    ends: IntArray
    indices: NDArray[Any]
    data: NDArray[Any]

    @property
    def nbytes(self) -> int:
        return self.ends.nbytes + self.indices.nbytes + self.data.nbytes


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
        self._kept: Kept[int, Slab] = Kept(budget_bytes)
        self.dtype = np.dtype(array.schema.field("soma_data").type.to_pandas_dtype())

    def slab_of(self, places: IntArray) -> IntArray:
        """The slab in which each of the wanted cells ``places`` (m,) lies."""
        return self._rows[places] // SLAB_CELLS

    def take(self, places: IntArray) -> csr_matrix:
        """Counts (m, G) of the wanted cells number ``places`` (m,), in the order asked for."""
        slab_of = self.slab_of(places)
        slabs = self._kept.get(np.unique(slab_of).tolist(), self._queried, at_once=SLABS_AT_ONCE)
        parts = [(slab, np.flatnonzero(slab_of == number)) for number, slab in slabs.items()]
        lengths = np.zeros(len(places) + 1, dtype=np.int64)
        for slab, at in parts:
            within = places[at] - slab.first
            lengths[at + 1] = slab.ends[within + 1] - slab.ends[within]
        ends = np.cumsum(lengths)
        of_indices = index_dtype(int(ends[-1]), self._n_columns)
        indices, data = REUSED.empty(ends[-1], of_indices), REUSED.empty(ends[-1], self.dtype)
        for slab, at in parts:
            runs = Runs(slab.ends[places[at] - slab.first], lengths[at + 1], ends[at])
            runs.copy(slab.indices, indices)
            runs.copy(slab.data, data)
        counts = csr_matrix((data, indices, ends.astype(of_indices)), shape=(len(places), self._n_columns))
        counts.has_canonical_format = True
        return counts

    def _queried(self, slabs: list[int]) -> dict[int, Slab]:
        """Slabs by number, neighbours by one query."""
        made = {}
        for run in _runs(slabs):
            bounds = np.searchsorted(self._rows, np.append(run, run[-1] + 1) * SLAB_CELLS).tolist()
            counts = self._read(bounds[0], bounds[-1])
            for slab, begin, end in zip(run, bounds[:-1], bounds[1:], strict=True):
                made[slab] = _narrowed(counts[begin - bounds[0] : end - bounds[0]], first=begin)
        return made

    def _read(self, begin: int, end: int) -> csr_matrix:
        """Counts of the wanted cells ``begin`` .. ``end``: a range of rows, no constraint on columns."""
        first, last = int(self._rows[begin]), int(self._rows[end - 1])
        names = ("soma_dim_0", "soma_dim_1", "soma_data")
        with readable(self._array.uri):
            tables = [
                tuple(table[name].to_numpy() for name in names)
                for table in self._array.read((slice(first, last),)).tables()
            ]
        counts = csr_of(
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


def _narrowed(counts: csr_matrix, *, first: int) -> Slab:
    """A copy, in the narrowest types. Values that are no counts keep their type."""
    data = counts.data
    if len(data) and data.min() >= 0 and data.max() < 2**32:
        narrow = data.astype(narrowest_unsigned(int(data.max())))
        data = narrow if np.array_equal(narrow, data) else data
    indices = counts.indices.astype(narrowest_unsigned(counts.shape[1]))
    return Slab(first, frozen(counts.indptr.astype(np.int64)), frozen(indices), frozen(data.copy()))


def _lookup(joinids: IntArray, first: int, stop: int) -> NDArray[np.int32]:
    """Place of each of first .. stop - 1 in ``joinids``, -1 where it is none of them."""
    places = np.full(stop - first, -1, dtype=np.int32)
    places[joinids - first] = np.arange(len(joinids), dtype=np.int32)
    return places


def _runs(slabs: list[int]) -> Iterator[list[int]]:
    """Runs of consecutive slabs."""
    for _, group in groupby(enumerate(slabs), key=lambda item: item[1] - item[0]):
        yield [slab for _, slab in group]
