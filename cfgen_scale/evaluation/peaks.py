"""The space in which peaks are compared: principal components of TF-IDF (paper G.4)."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from .normalise import LIBRARY_SIZE, FloatArray, mean_and_variance

# |r| of the first component's scores with the log of a cell's total from which it is taken for depth
DEPTH_CORRELATION = 0.5


@dataclass(frozen=True)
class PeakBasis:
    """Principal components of the TF-IDF of some real cells.

    idf            (P,) float64, log(1 + cells / total of the peak); 0 for peaks that those cells lack
    components     (P, d) float64, orthonormal columns
    centre         (d,) float64, the mean of the cells it was fitted on, on the components
    explained      share of the variance that the components hold
    depth_dropped  the first component followed the depth of the cells and was left out
    """

    idf: FloatArray
    components: FloatArray
    centre: FloatArray
    explained: float
    depth_dropped: bool

    @staticmethod
    def fit(counts: csr_matrix, n_components: int = 30) -> "PeakBasis":
        """From counts (n, P), binarised or not. Raises ValueError where cells or peaks are too few.

        A component more than asked for is fitted. Where the first one's scores correlate with log total by
        more than DEPTH_CORRELATION it is dropped, else the last one is.
        """
        from sklearn.decomposition import PCA

        n_cells, n_peaks = counts.shape
        if min(n_cells - 1, n_peaks - 1) < n_components + 1:
            raise ValueError(
                f"{n_components} components of TF-IDF need at least {n_components + 2} cells and peaks; "
                f"there are {n_cells} cells and {n_peaks} peaks. Give more cells or ask for fewer components."
            )
        idf = inverse_frequency(counts)
        weighted = tf_idf(counts, idf)
        # arpack takes sparse matrices, and centres them as it goes
        pca = PCA(n_components + 1, svd_solver="arpack", random_state=0).fit(weighted)
        depth = np.log(np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1.0))
        first = weighted @ pca.components_[0]
        dropped = bool(np.ptp(depth) > 0 and abs(np.corrcoef(first, depth)[0, 1]) > DEPTH_CORRELATION)
        kept = slice(1, None) if dropped else slice(0, n_components)
        components = np.ascontiguousarray(pca.components_[kept].T)
        total = mean_and_variance(weighted)[1].sum()
        explained = float(pca.explained_variance_[kept].sum() / total)
        return PeakBasis(
            idf, components, np.asarray(weighted.mean(axis=0)).ravel() @ components, explained, dropped
        )

    def project(self, counts: csr_matrix, centred: bool = True) -> FloatArray:
        """Scores (n, d) of cells, by the idf of the cells that were fitted; ``centred`` as in Basis."""
        scores = tf_idf(counts, self.idf) @ self.components
        return scores - self.centre if centred else scores


def inverse_frequency(counts: csr_matrix) -> FloatArray:
    """log(1 + n / total) of each peak (P,) over n cells; 0 where its total is 0."""
    total = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    return np.where(total > 0, np.log1p(counts.shape[0] / np.maximum(total, 1.0)), 0.0)


def tf_idf(counts: csr_matrix, idf: FloatArray) -> csr_matrix:
    """log(1 + 1e4 x / total of the cell) * idf, CSR float64 (n, P): the form that muon has by default.

    (Signac's default takes one logarithm, of the product, instead of two.)
    """
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    scale = LIBRARY_SIZE / np.where(totals == 0, 1.0, totals)
    values = np.log1p(counts.data * np.repeat(scale, np.diff(counts.indptr))) * idf[counts.indices]
    return csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape)
