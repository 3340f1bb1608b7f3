"""The cells of one or several planned batches, by one read."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike
from scipy.sparse import csr_matrix

from cfgen_scale.types import CellBatch, IntArray
from loaders.preparation.prepared import Prepared
from loaders.streaming.order import BatchPlan


def read_batches(
    prepared: Prepared, split_rows: IntArray, plans: Sequence[BatchPlan], *, dtype: DTypeLike | None = None
) -> list[CellBatch]:
    """The cells that each of ``plans`` names, of the split whose rows are ``split_rows``, by one read;
    ``dtype`` of the counts, whose arrays are parts of common ones."""
    rows = split_rows[np.concatenate([plan.places for plan in plans])]
    counts, labels = _read_counts(prepared, rows, dtype), prepared.labels(rows)
    ends = np.cumsum([len(plan.places) for plan in plans])
    parts = [slice(end - len(plan.places), end) for plan, end in zip(plans, ends.tolist(), strict=True)]
    return [
        CellBatch(
            rows=rows[at],
            positions=plan.positions,
            global_cells=plan.global_cells,
            cells_seen=plan.cells_seen_after,
            counts=counts if len(plans) == 1 else tuple(_rows_of(matrix, at) for matrix in counts),
            labels=labels[at],
        )
        for plan, at in zip(plans, parts, strict=True)
    ]


def _rows_of(counts: csr_matrix, at: slice) -> csr_matrix:
    """Neighbouring rows, whose values are not copied."""
    begins = counts.indptr[at.start : at.stop + 1]
    values = slice(begins[0], begins[-1])
    shape = (at.stop - at.start, counts.shape[1])
    rows = csr_matrix((counts.data[values], counts.indices[values], begins - begins[0]), shape=shape)
    rows.has_canonical_format = counts.has_canonical_format
    return rows


def _read_counts(prepared: Prepared, rows: IntArray, dtype: DTypeLike | None) -> tuple[csr_matrix, ...]:
    """Counts of ``rows``; a class-balanced batch may hold a cell twice, which stores are asked for once."""
    ascending = np.sort(rows)
    if (ascending[1:] > ascending[:-1]).all():
        return prepared.read(rows, dtype=dtype)
    once, of_row = np.unique(rows, return_inverse=True)
    return tuple(counts[of_row] for counts in prepared.read(once, dtype=dtype))
