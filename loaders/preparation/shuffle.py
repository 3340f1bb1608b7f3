"""Cells put into a seeded random order while they are packed, in memory that does not grow with the atlas.

Two passes over the non-zeros. Slabs of the source, as they come, are *scattered* into bucket files: bucket b
takes the cells whose place in the permutation (streaming/permutation.py) is in the b-th of equal parts of it.
Then every bucket, which fits into memory, is *put in order* and appended to the packed cells, and its file is
removed. Files are opened to be appended to and closed again, so that there may be any number of them.

Memory: a slab, and five times `BUCKET_BYTES`. Disk: once more what the packed cells take without compression,
with narrow indices.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.arrays.runs import Runs
from loaders.layout import index_dtype, narrowest_unsigned
from loaders.streaming.permutation import key, permute

BUCKET_BYTES = 64 * 2**20


class CellShuffle:
    """Rows of counts given in the order of the source come out shuffled.

    folder         of the bucket files; made here, empty behind `shuffled`
    n_rows         rows of the source, whether they come or not: the permutation is of all of them, so that
                   which cells are dropped does not move the others
    nnz            non-zeros to come, about: decides the number of buckets
    largest_count  bounds every count to come
    """

    def __init__(
        self, folder: Path, *, n_rows: int, n_features: int, nnz: int, largest_count: int, seed: int
    ) -> None:
        self._folder = folder
        self._folder.mkdir()
        self._n_rows = n_rows
        self._n_features = n_features
        self._key = key(seed, "repack")
        self._dtypes = {
            "cells": np.dtype(np.int64),
            "indices": narrowest_unsigned(n_features),
            "data": narrowest_unsigned(largest_count),
        }
        record = self._dtypes["indices"].itemsize + self._dtypes["data"].itemsize
        self._n_buckets = min(-(-nnz * record // BUCKET_BYTES) or 1, n_rows)

    def places(self, rows: IntArray) -> IntArray:
        """(m,) place of each of ``rows`` (m,) in the shuffled order of all rows of the source."""
        return permute(rows, self._n_rows, self._key)

    def append(self, rows: IntArray, counts: csr_matrix) -> None:
        """Scatter rows (b, G) of the source: whole numbers, indices sorted, no explicit zeros."""
        places = self.places(rows)
        order = np.argsort(places)
        places = places[order]
        indices, data, ends = self._in_order(counts.indices, counts.data, counts.indptr, order)
        cells = np.stack([places, np.diff(ends)], axis=1)
        buckets = places * self._n_buckets // self._n_rows
        bounds = np.append(np.flatnonzero(np.diff(buckets, prepend=-1)), len(buckets)).tolist()
        for start, stop in pairwise(bounds):
            of_bucket = slice(ends[start], ends[stop])
            self._write(int(buckets[start]), "cells", cells[start:stop])
            self._write(int(buckets[start]), "indices", indices[of_bucket])
            self._write(int(buckets[start]), "data", data[of_bucket])

    def shuffled(self) -> Iterator[csr_matrix]:
        """All rows in the shuffled order, a bucket at a time, whose files go when the next is asked for."""
        for bucket in range(self._n_buckets):
            if self._path(bucket, "cells").exists():
                yield self._ordered(bucket)
                for name in self._dtypes:
                    self._path(bucket, name).unlink()
        self._folder.rmdir()

    def _ordered(self, bucket: int) -> csr_matrix:
        places, lengths = self._read(bucket, "cells").reshape(-1, 2).T
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        stored = self._read(bucket, "indices"), self._read(bucket, "data")
        indices, data, ends = self._in_order(*stored, indptr, np.argsort(places))
        dtype = index_dtype(int(ends[-1]), self._n_features)
        shape = (len(places), self._n_features)
        return csr_matrix((data, indices.astype(dtype), ends.astype(dtype)), shape=shape)

    def _in_order(
        self, indices: NDArray[Any], data: NDArray[Any], indptr: NDArray[Any], order: IntArray
    ) -> tuple[NDArray[Any], NDArray[Any], IntArray]:
        """Indices and data in the buckets' dtypes, and row pointers (m + 1,), of the rows ``order`` (m,)."""
        runs, ends = Runs.of_rows(indptr.astype(np.int64), order)
        parts = [np.empty(ends[-1], dtype=self._dtypes[name]) for name in ("indices", "data")]
        for source, part in zip((indices, data), parts, strict=True):
            runs.copy(source, part)
        return parts[0], parts[1], ends

    def _write(self, bucket: int, name: str, values: NDArray[Any]) -> None:
        with self._path(bucket, name).open("ab") as file:
            file.write(np.ascontiguousarray(values).data)

    def _read(self, bucket: int, name: str) -> NDArray[Any]:
        return np.fromfile(self._path(bucket, name), dtype=self._dtypes[name])

    def _path(self, bucket: int, name: str) -> Path:
        return self._folder / f"{bucket:06d}.{name}"
