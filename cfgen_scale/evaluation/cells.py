"""What the measures need of an AnnData, checked on the way in: raw counts, classes of cells, genes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix, issparse, sparray, spmatrix

UNTOLD = ""


class EvaluationError(ValueError):
    """The cells given cannot be compared; the message says which, why, and what to do."""


@dataclass(frozen=True)
class CountedCells:
    """Cells of one source: counts (n, G) CSR float64; classes (n,) str, UNTOLD where not told."""

    counts: csr_matrix
    classes: NDArray[np.str_]

    def __len__(self) -> int:
        return int(self.counts.shape[0])

    def take(self, rows: NDArray[np.int64]) -> "CountedCells":
        return CountedCells(self.counts[rows], self.classes[rows])

    def of_class(self, name: str) -> NDArray[np.int64]:
        """Rows of the cells of one class, ascending."""
        return np.flatnonzero(self.classes == name)

    def class_names(self) -> list[str]:
        """Classes told to at least one cell, sorted."""
        return [str(name) for name in np.unique(self.classes) if name != UNTOLD]


def read_cells(
    adata: AnnData,
    *,
    name: str,
    genes: Sequence[str],
    label: str | None,
    binarise: bool = False,
    reference: str = "the test set",
) -> CountedCells:
    """Take counts, with columns in the order of ``genes``, and classes out of ``adata``.

    ``name`` is what error messages call it, ``reference`` what has those genes. ``label`` is the column of
    obs with the classes; None: no cell is told a class. A missing or empty value means that the class of that
    cell is not told. ``binarise`` makes a 1 of every count. Raises EvaluationError for no cells, counts that
    are no counts, genes that differ, or a label column not there.
    """
    if adata.n_obs == 0:
        raise EvaluationError(f"{name} has no cells.")
    classes = np.full(adata.n_obs, UNTOLD) if label is None else _classes(adata, label, name)
    columns = _columns(gene_names(adata, name), genes, name, reference)
    counts = _counts(adata, name)
    if columns is not None:
        counts = csr_matrix(counts[:, columns])
        counts.sort_indices()
    if binarise:
        counts.data[:] = 1.0
    return CountedCells(counts, classes)


def gene_names(adata: AnnData, name: str) -> list[str]:
    """Names of the genes in order. Raises EvaluationError naming the first gene that stands twice."""
    names = adata.var_names.astype(str)
    if not names.is_unique:
        twice = names[names.duplicated()][0]
        raise EvaluationError(f"gene {twice!r} stands more than once in {name}. Make gene names unique.")
    return [str(gene) for gene in names]


def _counts(adata: AnnData, name: str) -> csr_matrix:
    if adata.X is None:
        raise EvaluationError(f"{name} has no X. Put raw counts into X.")
    counts = _widened(adata.X) if issparse(adata.X) else csr_matrix(np.asarray(adata.X), dtype=np.float64)
    counts.sum_duplicates()
    wrong = ~np.isfinite(counts.data) | (counts.data < 0) | (counts.data != np.rint(counts.data))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        cell = int(np.searchsorted(counts.indptr, first, side="right")) - 1
        gene = adata.var_names[counts.indices[first]]
        raise EvaluationError(
            f"{name} holds {int(wrong.sum())} values that are no counts, the first {counts.data[first]:g} "
            f"in cell {adata.obs_names[cell]!r}, gene {gene!r}. X must hold raw counts: integers >= 0."
        )
    counts.eliminate_zeros()
    return counts


def _widened(matrix: spmatrix | sparray) -> csr_matrix:
    """A CSR copy in float64, with the indices scipy wants.

    anndata hands over the indices of a file as they are, and scipy's own methods fail on uint16 ones, or on
    int32 ones beside int64 row pointers. All three arrays are copied: what follows changes them in place.
    """
    fits = max(matrix.nnz, *matrix.shape) <= np.iinfo(np.int32).max
    dtype = np.int32 if fits else np.int64
    parts = (matrix.data.astype(np.float64), matrix.indices.astype(dtype), matrix.indptr.astype(dtype))
    layout = csc_matrix if matrix.format == "csc" else csr_matrix
    return csr_matrix(layout(parts, shape=matrix.shape))


def _classes(adata: AnnData, label: str, name: str) -> NDArray[np.str_]:
    if label not in adata.obs:
        columns = ", ".join(repr(str(column)) for column in adata.obs.columns) or "none"
        raise EvaluationError(f"{name} has no column {label!r} in obs. Its columns: {columns}.")
    column = adata.obs[label]
    told = ~pd.isna(column).to_numpy()
    return np.array([str(value) if known else UNTOLD for value, known in zip(column, told, strict=True)])


def _columns(
    names: Sequence[str], genes: Sequence[str], name: str, reference: str
) -> NDArray[np.int64] | None:
    """Columns that bring ``names`` into the order of ``genes``; None where they are in it already."""
    if list(names) == list(genes):
        return None
    place = {gene: i for i, gene in enumerate(names)}
    known = set(genes)
    lacking = next((f"{gene!r} is missing in {name}" for gene in genes if gene not in place), None)
    extra = next((f"{gene!r} is only in {name}" for gene in names if gene not in known), None)
    if lacking or extra:
        raise EvaluationError(
            f"{name} ({len(names)} genes) and {reference} ({len(genes)} genes) do not have the same genes: "
            f"{lacking or extra}. Compare cells counted on the same genes."
        )
    return np.array([place[gene] for gene in genes], dtype=np.int64)
