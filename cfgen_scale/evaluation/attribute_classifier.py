"""Of which category does a cell look? A classifier trained on real cells alone (paper Table 10)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cells import UNTOLD, EvaluationError
from .normalise import FloatArray

HIDDEN, BATCH_CELLS, PATIENCE_EPOCHS, MAX_EPOCHS = (128, 64), 64, 20, 300
MIN_CELLS_OF_A_CATEGORY = 10
VALIDATION_SHARE, FOLDS = 0.2, 3


@dataclass(frozen=True)
class AttributeClassifier:
    """Perceptrons of three layers over the categories of one attribute, with calibrated probabilities.

    A network that stops early is less sure than it is right, one that does not is surer: probabilities are
    calibrated (Platt) on the third of the cells that each of three networks has not seen, and averaged.
    """

    categories: tuple[str, ...]
    model: Any

    @staticmethod
    def fit(points: FloatArray, names: NDArray[np.str_], *, seed: int = 0) -> "AttributeClassifier":
        """From coordinates (n, d) of training cells and the category (n,) of each, UNTOLD left out.

        Coordinates are standardised; training stops early by a fifth of the cells. Categories with fewer
        than 10 cells are not learnt. Raises EvaluationError where fewer than two are left.
        """
        from sklearn.calibration import CalibratedClassifierCV
        from sklearn.model_selection import StratifiedKFold
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        known, sizes = np.unique(names[names != UNTOLD], return_counts=True)
        learnt = known[sizes >= MIN_CELLS_OF_A_CATEGORY]
        if len(learnt) < 2:
            raise EvaluationError(
                f"a classifier needs 2 categories with {MIN_CELLS_OF_A_CATEGORY} training cells each; "
                f"{len(learnt)} of {', '.join(map(repr, known.tolist())) or 'none'} have as many."
            )
        rows = np.isin(names, learnt)
        network = MLPClassifier(
            HIDDEN,
            batch_size=min(BATCH_CELLS, int(rows.sum()) // 4),
            early_stopping=True,
            n_iter_no_change=PATIENCE_EPOCHS,
            max_iter=MAX_EPOCHS,
            validation_fraction=VALIDATION_SHARE,
            random_state=seed,
        )
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        calibrated = CalibratedClassifierCV(make_pipeline(StandardScaler(), network), cv=folds)
        model = calibrated.fit(points[rows], names[rows])
        return AttributeClassifier(tuple(str(name) for name in model.classes_), model)

    def probability(self, points: FloatArray, category: str) -> FloatArray:
        """Probability (n,) of the category for points (n, d)."""
        return np.asarray(self.model.predict_proba(points)[:, self.categories.index(category)])

    def accuracy(self, points: FloatArray, names: NDArray[np.str_]) -> float:
        """Share of the points (n, d) whose likeliest category is theirs; NaN where none is of one learnt."""
        rows = np.isin(names, self.categories)
        return float((self.model.predict(points[rows]) == names[rows]).mean()) if rows.any() else float("nan")
