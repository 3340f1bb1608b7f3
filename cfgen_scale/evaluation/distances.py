"""How far one set of cells lies from another (METHOD 7)."""

import os
from types import ModuleType

import numpy as np
from scipy.spatial.distance import cdist

from .normalise import FloatArray

KERNEL_SCALES = (0.01, 0.1, 1.0, 10.0, 100.0)
TRANSPORT_ITERATIONS = 10_000_000
DISTANCES = ("w2", "mmd2", "mmd2_unbiased")


def compare(cells: FloatArray, reference: FloatArray) -> dict[str, float]:
    """All DISTANCES between ``cells`` (n, d) and ``reference`` (m, d).

    W2 uses all cells of both sides; MMD, whose biased form depends on the number of cells, as many of each
    side as the smaller has.
    """
    n = min(len(cells), len(reference))
    return {"w2": w2(cells, reference)} | _mmd2_both(cells[:n], reference[:n])


def w2(x: FloatArray, y: FloatArray) -> float:
    """Exact 2-Wasserstein distance of the uniform distributions on the rows of x (n, d) and y (m, d)."""
    ot = _optimal_transport()
    cost = cdist(x, y, "sqeuclidean")
    squared = ot.emd2(ot.unif(len(x)), ot.unif(len(y)), cost, numItermax=TRANSPORT_ITERATIONS)
    return float(np.sqrt(max(float(squared), 0.0)))


def mmd2(x: FloatArray, y: FloatArray, unbiased: bool = False) -> float:
    """Squared maximum mean discrepancy, summed over Gaussian kernels exp(-d^2 / 2 s^2) of KERNEL_SCALES.

    x (n, d), y (m, d). The biased form counts each cell's kernel with itself and is never negative; the
    unbiased form leaves it out, is 0 on average for equal distributions, and needs two rows on each side.
    """
    return _mmd2_both(x, y)["mmd2_unbiased" if unbiased else "mmd2"]


def _mmd2_both(x: FloatArray, y: FloatArray) -> dict[str, float]:
    if min(len(x), len(y)) < 2:
        raise ValueError(f"MMD needs at least 2 cells on each side; there are {len(x)} and {len(y)}.")
    n, m = len(x), len(y)
    within_x, within_y, between = _kernel_total(x, x), _kernel_total(y, y), _kernel_total(x, y)
    cross = 2 * between / (n * m)
    itself = len(KERNEL_SCALES)  # each kernel is 1 at distance 0
    return {
        "mmd2": within_x / n**2 + within_y / m**2 - cross,
        "mmd2_unbiased": (within_x - itself * n) / (n * (n - 1))
        + (within_y - itself * m) / (m * (m - 1))
        - cross,
    }


def _kernel_total(x: FloatArray, y: FloatArray) -> float:
    squared = cdist(x, y, "sqeuclidean")
    return sum(float(np.exp(squared * (-0.5 / scale**2)).sum()) for scale in KERNEL_SCALES)


def _optimal_transport() -> ModuleType:
    """POT, told beforehand not to import every array library it finds."""
    for library in ("PYTORCH", "JAX", "CUPY", "TENSORFLOW"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{library}", "1")
    import ot

    return ot
