"""Real and generated cells on one map of two dimensions."""

from dataclasses import dataclass

import numpy as np
from anndata import AnnData

from .normalise import FloatArray

MIN_CELLS_FOR_UMAP = 500


@dataclass(frozen=True)
class Map:
    """Where cells lie: real (n, 2), generated (m, 2), and how the axes came about."""

    real: FloatArray
    generated: FloatArray
    method: str


def embed(real: FloatArray, generated: FloatArray, *, seed: int = 0) -> Map:
    """Place real (n, d) and generated (m, d) component scores on one map, fitted on both together.

    UMAP on the scores; below MIN_CELLS_FOR_UMAP cells its neighbourhoods mean little, and the first two
    components are taken as they are.
    """
    both = np.concatenate([real, generated])
    if len(both) < MIN_CELLS_FOR_UMAP:
        return Map(real[:, :2], generated[:, :2], "PCA")
    import scanpy

    cells = AnnData(obsm={"X_pca": both.astype(np.float32)})
    scanpy.pp.neighbors(cells, use_rep="X_pca", random_state=seed)
    scanpy.tl.umap(cells, random_state=seed)
    placed = np.asarray(cells.obsm["X_umap"], dtype=np.float64)
    return Map(placed[: len(real)], placed[len(real) :], "UMAP")
