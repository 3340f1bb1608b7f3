"""Counts hidden on purpose, so that what is imputed can be compared with what was there (paper I.6)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from .cells import EvaluationError
from .normalise import FloatArray

_DRAW = 8


@dataclass(frozen=True)
class HiddenCounts:
    """Entries that were hidden: rows (m,), columns (m,), and the counts (m,) that stood there, all > 0."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    counts: FloatArray

    def __len__(self) -> int:
        return len(self.rows)


def mask_counts(counts: csr_matrix, share: float, *, seed: int) -> csr_matrix:
    """The counts (n, G) with a ``share`` of the non-zero entries, drawn one by one, set to zero.

    A cell that would lose every count keeps all of them. Explicit zeros are not stored. Raises ValueError
    unless 0 < share < 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share of counts to hide is between 0 and 1, not {share}.")
    whole = counts.copy()
    whole.eliminate_zeros()
    kept = np.random.default_rng([seed, _DRAW]).random(whole.nnz) >= share
    cell = np.repeat(np.arange(whole.shape[0]), np.diff(whole.indptr))
    left = np.bincount(cell, weights=kept, minlength=whole.shape[0])
    kept |= (left == 0)[cell]
    masked = csr_matrix((np.where(kept, whole.data, 0), whole.indices, whole.indptr), shape=whole.shape)
    masked.eliminate_zeros()
    return masked


def hidden_counts(masked: csr_matrix, complete: csr_matrix) -> HiddenCounts:
    """What ``masked`` lacks of ``complete``, both (n, G). Raises EvaluationError if they differ otherwise."""
    lacking = csr_matrix(complete - masked)
    lacking.eliminate_zeros()
    entries = lacking.tocoo()
    if entries.nnz == 0:
        raise EvaluationError("no count is hidden: there is nothing to impute.")
    whole = np.asarray(complete[entries.row, entries.col]).ravel()
    if not np.array_equal(whole, entries.data):
        raise EvaluationError("the masked counts are not the complete ones with some entries set to zero.")
    return HiddenCounts(
        entries.row.astype(np.int64), entries.col.astype(np.int64), entries.data.astype(np.float64)
    )
