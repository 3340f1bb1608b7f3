"""Cells stored as the three arrays of a CSR matrix (indptr, indices, data), whatever the file around them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.arrays.blocks import CACHE_BYTES, BlockArray, BlockCache
from loaders.arrays.gather import ascend_in_rows
from loaders.arrays.kept import Kept
from loaders.arrays.mapped import MappedArray, can_be_mapped
from loaders.arrays.reused_memory import REUSED
from loaders.arrays.runs import Runs
from loaders.layout import index_dtype
from loaders.stores.identity import digest_of_numbers


@dataclass(frozen=True)
class CsrCaches:
    """Room for decoded chunks: one cache for ``data`` and one for ``indices``, each with its share whichever
    is read first. Stores that are read together share it, or each would take it all."""

    data: BlockCache
    indices: BlockCache

    @staticmethod
    def split(data_bytes: int = 1, index_bytes: int = 1) -> "CsrCaches":
        """`CACHE_BYTES` shared out in proportion to the bytes of an element."""
        both = data_bytes + index_bytes
        data, indices = (CACHE_BYTES * part // both for part in (data_bytes, index_bytes))
        return CsrCaches(Kept(data), Kept(indices))


class CsrArrays:
    """Rows of a CSR matrix (n, n_features) in a group of HDF5 or Zarr; safe to use from several threads.

    ``is_canonical`` says that the columns of every row are known to ascend, and are not looked at again.
    ``slab_cells`` and ``kept_cells`` are as in `CellStore`, if all rows had as many values.
    Raises ValueError if the row pointers do not fit the values stored.
    """

    def __init__(
        self,
        group: Any,
        *,
        n_features: int,
        uri: str,
        is_canonical: bool = False,
        caches: CsrCaches | None = None,
    ) -> None:
        self.indptr = np.asarray(group["indptr"][...], dtype=np.int64)
        _require_row_pointers(self.indptr, group, uri)
        data, indices = group["data"], group["indices"]
        caches = caches or CsrCaches.split(data.dtype.itemsize, indices.dtype.itemsize)
        self.data = _elements(data, "data", caches.data, uri)
        self.indices = _elements(indices, "indices", caches.indices, uri)
        self.n_rows = len(self.indptr) - 1
        self.n_features = n_features
        self._is_canonical = is_canonical
        parts = (self.data, self.indices)
        self._chunk = max((part.block for part in parts if isinstance(part, BlockArray)), default=1)
        self.slab_cells, self.kept_cells = self._decoding()

    def read(self, rows: IntArray, *, dtype: DTypeLike | None = None) -> csr_matrix:
        """``rows`` (m,) as CSR (m, n_features), indices sorted, cast to ``dtype`` on the way.

        Raises OSError or ValueError naming the chunk that is missing, cannot be read or is corrupt.
        """
        runs, ends = Runs.of_rows(self.indptr, rows)
        of_indices = index_dtype(int(ends[-1]), self.n_features)
        indices = REUSED.empty(ends[-1], of_indices)
        data = REUSED.empty(ends[-1], dtype or self.data.dtype)
        self.indices.gather(runs, indices, limit=self.n_features)
        self.data.gather(runs, data)
        counts = csr_matrix((data, indices, ends.astype(of_indices)), shape=(len(rows), self.n_features))
        if self._is_canonical or ascend_in_rows(indices, ends):
            counts.has_canonical_format = True
        else:
            counts.sum_duplicates()
        return counts

    def slab_of(self, rows: IntArray) -> IntArray:
        """The chunk in which each of ``rows`` (m,) begins; only its last row reaches into the next."""
        return rows if self._chunk == 1 else self.indptr[rows] // self._chunk

    def _decoding(self) -> tuple[int, int]:
        """Rows of a chunk, and rows that are kept decoded, if all had as many values."""
        if self._chunk == 1:
            return 1, self.n_rows
        values_of_row = max(int(self.indptr[-1]) / max(self.n_rows, 1), 1)
        kept_bytes = (self.data.dtype.itemsize + self.indices.dtype.itemsize) * values_of_row
        return max(int(self._chunk / values_of_row), 1), int(CACHE_BYTES / kept_bytes)

    def identity(self) -> dict[str, Any]:
        """How many values are stored, and a digest of how many each row has."""
        return {"stored_values": int(self.indptr[-1]), "row_pointers": digest_of_numbers(self.indptr)}


def _elements(array: Any, name: str, cache: BlockCache, uri: str) -> MappedArray | BlockArray:
    """The reader of ``data`` or ``indices``: mapped where the chunks are raw files, else chunk by chunk."""
    return MappedArray(array) if can_be_mapped(array) else BlockArray(array, name, cache, uri=uri)


def _require_row_pointers(indptr: IntArray, group: Any, uri: str) -> None:
    """Raise ValueError unless row pointers lie within ``data`` and ``indices``: reading relies on it."""
    stored = min(group["data"].shape[0], group["indices"].shape[0])
    if not len(indptr) or indptr[0] < 0 or indptr[-1] > stored or (np.diff(indptr) < 0).any():
        raise ValueError(
            f"indptr of {uri} is corrupt: it does not rise from 0 to the {stored:,} stored values. Copy or "
            f"write the store again."
        )
