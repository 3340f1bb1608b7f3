"""The space in which real and generated cells are compared: principal components of variable genes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from .normalise import FloatArray, log_normalise
from .variable_genes import variable_genes


@dataclass(frozen=True)
class Basis:
    """Principal components of the log-normalised variable genes of some real cells.

    genes       (g,) int64, columns of the variable genes
    components  (g, d) float64, orthonormal columns
    centre      (d,) float64, the mean of the cells it was fitted on, on the components
    explained   share of the variance of those genes that the components hold
    """

    genes: NDArray[np.int64]
    components: FloatArray
    centre: FloatArray
    explained: float

    @staticmethod
    def fit(counts: csr_matrix, n_genes: int = 2000, n_components: int = 30) -> "Basis":
        """From raw counts (n, G). Raises ValueError where cells or genes are too few for the components."""
        from sklearn.decomposition import PCA

        n_cells = counts.shape[0]
        genes = variable_genes(counts, n_genes)
        if min(n_cells - 1, len(genes)) < n_components:
            raise ValueError(
                f"{n_components} principal components need at least {n_components + 1} cells and "
                f"{n_components} genes; there are {n_cells} cells and {len(genes)} genes. "
                "Give more cells or ask for fewer components."
            )
        expression = log_normalise(counts)[:, genes].toarray()
        # the same components either way; through the covariance it is much faster when cells outnumber genes
        solver = "covariance_eigh" if n_cells > len(genes) else "full"
        pca = PCA(n_components, svd_solver=solver).fit(expression)
        components = pca.components_.T
        return Basis(
            genes,
            components,
            expression.mean(axis=0) @ components,
            float(pca.explained_variance_ratio_.sum()),
        )

    def project(self, counts: csr_matrix, centred: bool = True) -> FloatArray:
        """Scores (n, d) of cells; ``centred=False`` leaves the mean in, as the legacy protocol does."""
        scores = log_normalise(counts)[:, self.genes] @ self.components
        return scores - self.centre if centred else scores
