"""How near imputed counts are to the hidden ones, beside simple ways of filling them in (paper Table 9)."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags_array

from .basis import Basis
from .masking import HiddenCounts
from .normalise import FloatArray

NEIGHBOURS = 15
BASELINES = ("zero", "gene mean", f"mean of {NEIGHBOURS} neighbours")


def imputation_figures(imputed: FloatArray, hidden: HiddenCounts) -> dict[str, float]:
    """``imputed`` (m,) against the m hidden counts. NaN where a correlation is not defined.

    l1              mean absolute difference of counts (Table 9)
    pearson         correlation of counts (Table 9); a few abundant features decide it
    pearson_log1p   correlation of log(1 + count)
    """
    return {
        "l1": float(np.abs(imputed - hidden.counts).mean()),
        "pearson": _pearson(imputed, hidden.counts),
        "pearson_log1p": _pearson(np.log1p(imputed), np.log1p(hidden.counts)),
    }


def at_hidden(batches: Iterable[tuple[slice, NDArray[Any]]], hidden: HiddenCounts) -> FloatArray:
    """The imputed values (m,) at the hidden entries, of whole rows that come batch by batch."""
    order = np.argsort(hidden.rows, kind="stable")
    rows, columns = hidden.rows[order], hidden.columns[order]
    values = np.empty(len(hidden))
    for batch, means in batches:
        some = slice(*np.searchsorted(rows, [batch.start, batch.stop]).tolist())
        values[order[some]] = means[rows[some] - batch.start, columns[some]]
    return values


def baselines(
    masked: csr_matrix, hidden: HiddenCounts, *, kept_share: float, n_components: int = 30
) -> dict[str, FloatArray]:
    """Values (m,) at the hidden entries, by the name of the baseline, from the masked counts (n, G) alone.

    zero       what the masked matrix says
    gene mean  the feature's share of all counts, times the cell's library size
    neighbours the mean share among the 15 nearest cells (components of log-normalised counts), times the same

    The library size is the one seen over ``kept_share``.
    """
    totals = np.asarray(masked.sum(axis=1), dtype=np.float64).ravel()
    library = totals[hidden.rows] / kept_share
    share = np.asarray(masked.sum(axis=0), dtype=np.float64).ravel() / totals.sum()
    found = (np.zeros(len(hidden)), share[hidden.columns] * library)
    near = at_hidden(neighbour_shares(masked, totals, n_components), hidden) * library
    return dict(zip(BASELINES, (*found, near), strict=True))


def neighbour_shares(
    masked: csr_matrix, totals: FloatArray, n_components: int, *, batch_cells: int = 512
) -> Iterator[tuple[slice, FloatArray]]:
    """Batches of rows with the mean share (B, G) of each feature in the counts of each cell's neighbours."""
    from sklearn.neighbors import NearestNeighbors

    n_components = min(n_components, masked.shape[0] - 1, masked.shape[1])
    points = Basis.fit(masked, n_components=n_components).project(masked)
    k = min(NEIGHBOURS, len(points) - 1)
    graph = NearestNeighbors(n_neighbors=k).fit(points).kneighbors_graph()
    shares = diags_array(1 / totals) @ masked
    for first in range(0, len(points), batch_cells):
        rows = slice(first, min(first + batch_cells, len(points)))
        yield rows, (graph[rows] / k @ shares).toarray()


def _pearson(x: FloatArray, y: FloatArray) -> float:
    defined = len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0
    return float(np.corrcoef(x, y)[0, 1]) if defined else float("nan")
