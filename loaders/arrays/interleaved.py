"""Rows of one matrix that came in several parts."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.arrays.reused_memory import REUSED
from loaders.arrays.runs import Runs
from loaders.layout import index_dtype


def interleaved(parts: Sequence[csr_matrix], places: Sequence[IntArray]) -> csr_matrix:
    """One matrix whose row ``places[i][j]`` is row j of ``parts[i]``; every row has one place."""
    lengths = np.zeros(sum(map(len, places)) + 1, dtype=np.int64)
    for part, at in zip(parts, places, strict=True):
        lengths[at + 1] = np.diff(part.indptr)
    ends = np.cumsum(lengths)
    n_columns = parts[0].shape[1]
    of_indices = index_dtype(int(ends[-1]), n_columns)
    indices = REUSED.empty(ends[-1], of_indices)
    data = REUSED.empty(ends[-1], np.result_type(*(part.dtype for part in parts)))
    for part, at in zip(parts, places, strict=True):
        runs = Runs(part.indptr[:-1].astype(np.int64), lengths[at + 1], ends[at])
        runs.copy(part.indices, indices)
        runs.copy(part.data, data)
    counts = csr_matrix((data, indices, ends.astype(of_indices)), shape=(len(ends) - 1, n_columns))
    counts.has_canonical_format = all(part.has_canonical_format for part in parts)
    return counts
