"""The two passes of `prepare` over all counts: is every entry a count, and what is kept.

Both read contiguous slabs, so that memory is a slab and a few numbers per cell and gene.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from tqdm import tqdm

from cfgen_scale.types import AtlasSchema, IntArray
from loaders.arrays.gather import select_in_place
from loaders.stores.aligned_store import AlignedStore
from loaders.stores.stacked_store import StackedStore

type RowsOfCounts = StackedStore | AlignedStore

SLAB_CELLS = 4_096
LARGEST_COUNT = np.iinfo(np.int32).max


@dataclass(frozen=True)
class GeneScan:
    """What the first pass learns of the genes (G,) of the source.

    training_cells  (G,) int64, in how many training cells each gene occurs
    all_cells       (G,) int64, in how many cells; summed over the genes kept, the non-zeros to come
    largest_count   the largest count of all
    stored_zeros    whether zeros are among the values stored
    """

    training_cells: IntArray
    all_cells: IntArray
    largest_count: int
    stored_zeros: bool


@dataclass(frozen=True)
class CellScan:
    """What the second pass learns, over the genes kept.

    totals          (N,) float64, counts of each cell of the source
    kept            (N,) bool, cells with counts that were not to be dropped
    non_zeros       (N,) int32, genes of each cell
    feature_totals  (G kept,) float64, counts of each gene over the training cells
    counts_digest   sha256 of all counts kept, whatever the file format and dtype
    """

    totals: NDArray[np.float64]
    kept: NDArray[np.bool_]
    non_zeros: NDArray[np.int32]
    feature_totals: NDArray[np.float64]
    counts_digest: str


def scan_genes(store: RowsOfCounts, is_training: NDArray[np.bool_], *, progress: bool) -> GeneScan:
    """Check every entry of the store and count the cells of each gene.

    Raises ValueError naming source, cell and gene of the first entry that is no count.
    """
    n_features = len(store.features)
    training_cells, all_cells = (np.zeros(n_features, dtype=np.int64) for _ in range(2))
    largest, stored_zeros = 0, False
    for rows, counts in _slabs(store, "checking counts", progress=progress):
        _require_counts(store, rows, counts)
        stored = counts.nnz
        counts.eliminate_zeros()
        stored_zeros |= counts.nnz < stored
        largest = max(largest, int(counts.data.max(initial=0)))
        all_cells += np.bincount(counts.indices, minlength=n_features)
        genes = counts[np.flatnonzero(is_training[rows])].indices
        training_cells += np.bincount(genes, minlength=n_features)
    return GeneScan(training_cells, all_cells, largest, stored_zeros)


def scan_cells(
    store: RowsOfCounts,
    columns: IntArray,
    is_training: NDArray[np.bool_],
    *,
    dropped: NDArray[np.bool_] | None = None,
    binarised: bool = False,
    keep: Callable[[IntArray, csr_matrix], None] | None,
    progress: bool,
) -> CellScan:
    """Totals and digest over the genes ``columns``; ``keep`` gets the cells kept, slab by slab. Cells where
    ``dropped`` (N,) holds are left out as those without counts are. ``binarised``: any count is 1."""
    totals = np.zeros(store.n_cells)
    non_zeros = np.zeros(store.n_cells, dtype=np.int32)
    is_kept = np.zeros(store.n_cells, dtype=bool)
    feature_totals = np.zeros(len(columns))
    digest = CountsDigest()
    lookup = column_lookup(columns, len(store.features))
    for rows, slab in _slabs(store, "reading counts", progress=progress):
        counts = select_columns(slab, lookup, len(columns))
        counts.eliminate_zeros()
        if binarised:
            counts.data[...] = 1
        totals[rows] = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
        non_zeros[rows] = np.diff(counts.indptr)
        is_kept[rows] = totals[rows] > 0 if dropped is None else (totals[rows] > 0) & ~dropped[rows]
        kept = rows[is_kept[rows]]
        counts = counts[kept - rows[0]]
        training = counts[np.flatnonzero(is_training[kept])]
        feature_totals += np.asarray(training.sum(axis=0, dtype=np.float64)).ravel()
        digest.update(counts)
        if keep is not None:
            keep(kept, counts)
    return CellScan(totals, is_kept, non_zeros, feature_totals, digest.hexdigest())


def column_lookup(columns: IntArray, n_features: int) -> NDArray[np.int32] | None:
    """New place of each of ``n_features`` columns, -1 where it is left out; None if all stay."""
    if len(columns) == n_features:
        return None
    lookup = np.full(n_features, -1, dtype=np.int32)
    lookup[columns] = np.arange(len(columns), dtype=np.int32)
    return lookup


def select_columns(counts: csr_matrix, lookup: NDArray[np.int32] | None, n_columns: int) -> csr_matrix:
    """The columns that ``lookup`` keeps, in one pass over the non-zeros; ascending columns stay sorted.

    The memory of ``counts`` becomes that of the result: to ask for as much again takes longer than the pass.
    """
    if lookup is None:
        return counts
    is_canonical = counts.has_canonical_format
    select_in_place(counts.indices, counts.data, counts.indptr, lookup)
    kept = counts.indptr[-1]
    shape = (counts.shape[0], n_columns)
    selected = csr_matrix((counts.data[:kept], counts.indices[:kept], counts.indptr), shape=shape)
    selected.has_canonical_format = is_canonical
    return selected


class CountsDigest:
    """sha256 of rows of counts: equal counts give equal digests in any dtype, format and size of slab."""

    def __init__(self) -> None:
        self._streams = [hashlib.sha256() for _ in range(3)]

    def update(self, counts: csr_matrix) -> None:
        """Add rows: indices sorted, no explicit zeros."""
        parts = (
            np.diff(counts.indptr).astype("<i8"),
            counts.indices.astype("<u4"),
            counts.data.astype("<u4"),
        )
        for stream, part in zip(self._streams, parts, strict=True):
            stream.update(part.tobytes())

    def hexdigest(self) -> str:
        return hashlib.sha256(b"".join(stream.digest() for stream in self._streams)).hexdigest()


def content_digest(
    counts_digests: Sequence[str], schema: AtlasSchema, labels: IntArray, split: NDArray[np.uint8]
) -> str:
    """sha256 of counts of each modality, schema, labels (N, K) and split (N,): what a model learns from."""
    whole = hashlib.sha256(":".join([*counts_digests, schema.digest()]).encode())
    whole.update(labels.astype("<i8").tobytes())
    whole.update(split.tobytes())
    return whole.hexdigest()


def arrangement_digest(content: str, order: IntArray) -> str:
    """The content's digest where cells come in the order of their source; else that of content and
    ``order`` (N,): which of them comes first, second and so on. Two atlases of one arrangement give the same
    batches."""
    if (order == np.arange(len(order))).all():
        return content
    return hashlib.sha256(content.encode() + order.astype("<i8").tobytes()).hexdigest()


def _slabs(store: RowsOfCounts, what: str, *, progress: bool) -> Iterator[tuple[IntArray, csr_matrix]]:
    with tqdm(total=store.n_cells, unit=" cells", desc=what, disable=not progress) as bar:
        for start in range(0, store.n_cells, SLAB_CELLS):
            rows = np.arange(start, min(start + SLAB_CELLS, store.n_cells))
            yield rows, store.read(rows)
            bar.update(len(rows))


def _require_counts(store: RowsOfCounts, rows: IntArray, counts: csr_matrix) -> None:
    values = counts.data
    with np.errstate(invalid="ignore"):
        is_count = (
            np.isfinite(values) & (values >= 0) & (values <= LARGEST_COUNT) & (values == np.rint(values))
        )
    if is_count.all():
        return
    at = int(np.argmin(is_count))
    row = int(rows[np.searchsorted(counts.indptr, at, side="right") - 1])
    source, local = store.locate(row)
    raise ValueError(
        f"{source.uri}: cell {source.obs_names(local, local + 1)[0]!r} (row {local}), gene "
        f"{store.features[counts.indices[at]]!r} has {values[at]:.6g}, which is not a count. Counts are "
        f"whole numbers from 0 to {LARGEST_COUNT:,}: if these are normalised values, name the layer that "
        f"holds the raw counts."
    )
