"""Do generated cells lie where real ones do, and everywhere they do? Manifolds of nearest neighbours.

The manifold of a set is the union of balls about its cells, each reaching to the cell's k-th nearest
neighbour in the set. Precision and recall: Kynkaanniemi et al. 2019 (arXiv 1904.06991), k = 3. Density and
coverage, which single outliers of the real cells do not blow up: Naeem et al. 2020 (arXiv 2002.09797), k = 5.
Leave-one-out accuracy of one nearest neighbour: Lopez-Paz and Oquab 2017 (arXiv 1610.06545).
"""

import numpy as np
from scipy.spatial.distance import cdist

from .normalise import FloatArray

PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS = 3, 5
MIN_CELLS = DENSITY_NEIGHBOURS + 1
_DRAW = 6


def manifolds(cells: FloatArray, reference: FloatArray, *, seed: int, max_cells: int) -> dict[str, float]:
    """How the manifolds of ``cells`` (n, d) and of the real ``reference`` (m, d) cover each other.

    precision  share of the cells within the manifold of the reference: low where they are not real
    recall     share of the reference within the manifold of the cells: low where something is left out
    density    balls of the reference that a cell lies in, over k: 1 for equal distributions, unbounded
    coverage   share of the reference with a cell within its own ball
    one_neighbour_accuracy                how often a cell's nearest neighbour among all others is of its own
                                          side: 0.5 cannot be told apart, 1 always, below 0.5 copies
    one_neighbour_accuracy_of_generated   the same over ``cells`` alone: high where they lie densely together
    one_neighbour_accuracy_of_real        the same over the reference alone: high where nothing lies near it

    As many cells of each side, at most ``max_cells``, drawn by ``seed``. Raises ValueError below MIN_CELLS.
    """
    random = np.random.default_rng([seed, _DRAW])
    n = min(len(cells), len(reference), max_cells)
    if n < MIN_CELLS:
        raise ValueError(f"manifolds need at least {MIN_CELLS} cells on each side; there are {n}.")
    made, real = (side[random.permutation(len(side))[:n]] for side in (cells, reference))
    apart = cdist(real, made)
    return _coverage(real, made, apart) | _one_neighbour(real, made, apart)


def _coverage(real: FloatArray, made: FloatArray, apart: FloatArray) -> dict[str, float]:
    """``apart`` (n, n): distances of real (rows) and generated cells (columns)."""
    few, many = PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS
    radii = distances_to_neighbours(real, many)
    made_radius = distances_to_neighbours(made, few)[:, few - 1]
    in_real_few = apart <= radii[:, few - 1, None]
    in_real_many = apart <= radii[:, many - 1, None]
    return {
        "precision": float(in_real_few.any(axis=0).mean()),
        "recall": float((apart <= made_radius).any(axis=1).mean()),
        "density": float(in_real_many.sum(axis=0).mean() / many),
        "coverage": float(in_real_many.any(axis=1).mean()),
    }


def _one_neighbour(real: FloatArray, made: FloatArray, apart: FloatArray) -> dict[str, float]:
    """Where the other side is as near as the own one, half a point."""
    own_real = distances_to_neighbours(real, 1)[:, 0]
    own_made = distances_to_neighbours(made, 1)[:, 0]
    of_real = _nearer(own_real, apart.min(axis=1))
    of_made = _nearer(own_made, apart.min(axis=0))
    return {
        "one_neighbour_accuracy": (of_real + of_made) / 2,
        "one_neighbour_accuracy_of_generated": of_made,
        "one_neighbour_accuracy_of_real": of_real,
    }


def _nearer(own: FloatArray, other: FloatArray) -> float:
    return float(np.mean((own < other) + 0.5 * (own == other)))


def distances_to_neighbours(points: FloatArray, k: int) -> FloatArray:
    """Distances (n, k) of each of points (n, d) to its ``k`` nearest others, ascending."""
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points)
    # sklearn finds neighbours by an expanded square that loses digits; those found are measured anew
    found = nearest.kneighbors(return_distance=False)
    return np.sort(np.linalg.norm(points[:, None] - points[found], axis=2), axis=1)
