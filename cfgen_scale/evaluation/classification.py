"""Can a classifier tell generated from real cells, and do generated cells vary as much as real ones?"""

import numpy as np

from .cells import CountedCells
from .normalise import FloatArray

FOLDS = 5
NEIGHBOURS = 15
MIN_CELLS = 2 * FOLDS
_CLASSIFIER_DRAW = 5


def two_sample_auc(
    cells: FloatArray, reference: FloatArray, *, seed: int, max_cells: int = 5000
) -> dict[str, float]:
    """Area under the ROC curve of telling ``cells`` (n, d) from ``reference`` (m, d).

    0.5 is guessing, 1 is always right. Out of fold over 5 folds, on standardised coordinates, as many cells
    of each side: a logistic regression (sees shifts) and 15 nearest neighbours (sees shapes). Raises
    ValueError below MIN_CELLS.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    random = np.random.default_rng([seed, _CLASSIFIER_DRAW])
    n = min(len(cells), len(reference), max_cells)
    if n < MIN_CELLS:
        raise ValueError(f"the classifiers need at least {MIN_CELLS} cells on each side; there are {n}.")
    drawn = [side[random.permutation(len(side))[:n]] for side in (cells, reference)]
    points, is_first = np.concatenate(drawn), np.repeat([1, 0], n)
    return {
        "logistic": _out_of_fold_auc(LogisticRegression(max_iter=500), points, is_first, seed),
        "nearest_neighbours": _out_of_fold_auc(KNeighborsClassifier(NEIGHBOURS), points, is_first, seed),
    }


def _out_of_fold_auc(classifier: object, points: FloatArray, is_first: FloatArray, seed: int) -> float:
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), classifier)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    probability = cross_val_predict(model, points, is_first, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(is_first, probability))


def variance_ratios(
    placed: FloatArray,
    cells: CountedCells,
    placed_reference: FloatArray,
    reference: CountedCells,
    classes: list[str],
) -> dict[str, float]:
    """Total variance of each class over that of the real cells of the class, in the space of ``placed``.

    ``placed`` (n, d) are ``cells``, ``placed_reference`` (m, d) the real ones. 1 is right; well below 1 the
    generated cells of a class are too alike (collapse), above 1 they carry noise that real cells do not.
    Classes have at least 2 cells on both sides; one whose real cells are all alike is left out.
    """
    ratios = {}
    for name in classes:
        real = total_variance(placed_reference[reference.of_class(name)])
        if real > 0:
            ratios[name] = total_variance(placed[cells.of_class(name)]) / real
    return ratios


def total_variance(points: FloatArray) -> float:
    """Trace of the covariance (ddof 1) of points (n, d)."""
    return float(points.var(axis=0, ddof=1).sum())
