import numpy as np
import pytest

from cfgen_scale.evaluation.cells import CountedCells
from cfgen_scale.evaluation.classification import two_sample_auc, variance_ratios

RANDOM = np.random.default_rng(11)


def test_cells_of_one_distribution_cannot_be_told_apart() -> None:
    auc = two_sample_auc(RANDOM.normal(size=(600, 5)), RANDOM.normal(size=(600, 5)), seed=0)
    # the standard error of an AUC of 600 against 600 is 0.017
    assert auc["logistic"] == pytest.approx(0.5, abs=0.06)
    assert auc["nearest_neighbours"] == pytest.approx(0.5, abs=0.06)


def test_distant_cells_are_always_told_apart() -> None:
    auc = two_sample_auc(RANDOM.normal(size=(60, 5)), 30 + RANDOM.normal(size=(60, 5)), seed=0)
    assert auc == {"logistic": 1.0, "nearest_neighbours": 1.0}


def test_neighbours_see_a_shape_that_a_line_cannot() -> None:
    auc = two_sample_auc(0.2 * RANDOM.normal(size=(500, 4)), RANDOM.normal(size=(500, 4)), seed=0)
    assert auc["nearest_neighbours"] > 0.9 > 0.65 > auc["logistic"]


def test_too_few_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 10 cells on each side; there are 9"):
        two_sample_auc(np.zeros((9, 2)), np.zeros((50, 2)), seed=0)


def test_variance_ratio_of_scaled_cells_is_the_square_of_the_scale() -> None:
    points = RANDOM.normal(size=(40, 3))
    classes = np.array(["a", "b"] * 20)
    cells = CountedCells(np.zeros((40, 1)), classes)  # the ratios look at classes and points alone
    made = points * np.where(classes == "a", 2.0, 0.5)[:, None]
    ratios = variance_ratios(made, cells, points, cells, ["a", "b"])
    assert ratios == {"a": pytest.approx(4), "b": pytest.approx(0.25)}


def test_a_class_whose_real_cells_are_all_alike_has_no_ratio() -> None:
    cells = CountedCells(np.zeros((4, 1)), np.array(["a"] * 4))
    assert variance_ratios(RANDOM.normal(size=(4, 2)), cells, np.ones((4, 2)), cells, ["a"]) == {}
