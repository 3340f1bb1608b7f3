"""Marker features of each class, and whether generated cells express them as real ones do (paper G.4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from .cells import UNTOLD, CountedCells
from .normalise import FloatArray, log_normalise

MIN_CELLS_OF_A_CLASS = 3
MAX_CELLS = 20_000


@dataclass(frozen=True)
class Markers:
    """Columns of the features that mark each class, best first, and what is averaged of them.

    of_peaks  the share of a class' cells in which the feature is open, else its mean log-normalised count
    """

    of_class: dict[str, NDArray[np.int64]]
    of_peaks: bool = False

    @property
    def columns(self) -> NDArray[np.int64]:
        """All markers of all classes, each once, ascending: (F,)."""
        return np.unique(np.concatenate(list(self.of_class.values())))


def find_markers(
    cells: CountedCells, candidates: NDArray[np.int64], *, n_markers: int, of_peaks: bool
) -> Markers | None:
    """The ``n_markers`` features of each class that rank highest in it against all other cells.

    Wilcoxon rank-sum test (scanpy) on log-normalised counts of the ``candidates`` (columns), of at most
    MAX_CELLS cells spread over their order. Classes with fewer than 3 cells have none; None where fewer than
    two classes are left.
    """
    import scanpy

    told = np.flatnonzero(cells.classes != UNTOLD)
    if len(told) > MAX_CELLS:
        told = told[np.linspace(0, len(told) - 1, MAX_CELLS).astype(np.int64)]
    names, sizes = np.unique(cells.classes[told], return_counts=True)
    large = [str(name) for name, n in zip(names, sizes, strict=True) if n >= MIN_CELLS_OF_A_CLASS]
    if len(large) < 2:
        return None
    rows = told[np.isin(cells.classes[told], large)]
    ranked = AnnData(
        csr_matrix(log_normalise(cells.counts[rows])[:, candidates]),
        obs=pd.DataFrame(
            {"class": pd.Categorical(cells.classes[rows].astype(object), categories=large)},
            index=[str(i) for i in range(len(rows))],
        ),
        var=pd.DataFrame(index=[str(column) for column in candidates]),
    )
    n = min(n_markers, len(candidates))
    scanpy.tl.rank_genes_groups(ranked, "class", method="wilcoxon", n_genes=n)
    best = ranked.uns["rank_genes_groups"]["names"]
    return Markers({name: np.array(best[name], dtype=np.int64) for name in large}, of_peaks)


def marker_correlations(
    cells: CountedCells, reference: CountedCells, markers: Markers, classes: Sequence[str]
) -> dict[str, float]:
    """Pearson r, class by class, of the mean of every marker (of all classes) in ``cells`` and ``reference``.

    ``classes`` have cells on both sides. NaN where the means of a side are all equal.
    """
    made, real = (marker_means(side, markers, classes) for side in (cells, reference))
    return {name: _pearson(made[i], real[i]) for i, name in enumerate(classes)}


def marker_means(cells: CountedCells, markers: Markers, classes: Sequence[str]) -> FloatArray:
    """Mean expression, or share of open cells, of each marker in each class: (classes, F)."""
    columns = markers.columns
    values = cells.counts > 0 if markers.of_peaks else log_normalise(cells.counts)
    values = csr_matrix(values)[:, columns]
    means = [np.asarray(values[cells.of_class(name)].mean(axis=0)).ravel() for name in classes]
    return np.array(means).reshape(len(classes), len(columns))


def _pearson(x: FloatArray, y: FloatArray) -> float:
    defined = len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0
    return float(np.corrcoef(x, y)[0, 1]) if defined else float("nan")
