"""Of which category does a cell look? A classifier trained on real cells alone (paper Table 10)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cells import UNTOLD, EvaluationError
from .normalise import FloatArray

HIDDEN = (128, 64)
MIN_CELLS_OF_A_CATEGORY = 10
VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class AttributeClassifier:
    """A multilayer perceptron of three layers with a softmax head over the categories of one attribute."""

    categories: tuple[str, ...]
    model: Any

    @staticmethod
    def fit(points: FloatArray, names: NDArray[np.str_], *, seed: int = 0) -> "AttributeClassifier":
        """From coordinates (n, d) of training cells and the category (n,) of each, UNTOLD left out.

        Coordinates are standardised; training stops early by a fifth of these cells. Categories with fewer
        than 10 cells are not learnt. Raises EvaluationError where fewer than two are left.
        """
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        known, sizes = np.unique(names[names != UNTOLD], return_counts=True)
        learnt = known[sizes >= MIN_CELLS_OF_A_CATEGORY]
        if len(learnt) < 2:
            raise EvaluationError(
                f"a classifier needs 2 categories with {MIN_CELLS_OF_A_CATEGORY} training cells each; "
                f"{len(learnt)} of {', '.join(map(repr, known)) or 'none'} have as many."
            )
        rows = np.isin(names, learnt)
        network = MLPClassifier(
            HIDDEN, early_stopping=True, validation_fraction=VALIDATION_SHARE, random_state=seed
        )
        model = make_pipeline(StandardScaler(), network).fit(points[rows], names[rows])
        return AttributeClassifier(tuple(str(name) for name in model.classes_), model)

    def probability(self, points: FloatArray, category: str) -> FloatArray:
        """Probability (n,) of the category for points (n, d)."""
        return np.asarray(self.model.predict_proba(points)[:, self.categories.index(category)])

    def accuracy(self, points: FloatArray, names: NDArray[np.str_]) -> float:
        """Share of the points (n, d) whose likeliest category is theirs; NaN where none is of one learnt."""
        rows = np.isin(names, self.categories)
        return float((self.model.predict(points[rows]) == names[rows]).mean()) if rows.any() else float("nan")
