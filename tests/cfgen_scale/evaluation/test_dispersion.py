"""Classes whose dispersion is known."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cfgen_scale.evaluation.cells import CountedCells
from cfgen_scale.evaluation.dispersion import MIN_CELLS, MOST_PANELS, dispersion_figure, dispersion_gaps

N_GENES = 300


def counted(classes, theta_of, seed):
    """Negative binomial counts of means 0.5 to 20, with the theta of each cell's class."""
    rng = np.random.default_rng(seed)
    mean = np.geomspace(0.5, 20, N_GENES)
    theta = np.array([theta_of[name] for name in classes])[:, None]
    counts = rng.negative_binomial(theta, theta / (theta + mean))
    return CountedCells(csr_matrix(counts.astype(float)), np.array(classes))


CLASSES = ["a"] * 400 + ["b"] * 300 + ["rare"] * (MIN_CELLS - 1)
REAL = counted(CLASSES, {"a": 2.0, "b": 2.0, "rare": 2.0}, 0)


def test_cells_of_the_same_dispersion_have_one_curve():
    gaps = dispersion_gaps(counted(CLASSES, {"a": 2.0, "b": 2.0, "rare": 2.0}, 1), REAL, ["a", "b", "rare"])
    assert set(gaps) == {"a", "b"}
    assert max(gaps.values()) < 0.03


def test_a_class_with_another_theta_is_found_and_measured():
    """Of genes with a mean of 5, variance 5 + 25 / theta: 17.5 and 55 for theta 2 and 0.5, 0.50 in log10."""
    gaps = dispersion_gaps(counted(CLASSES, {"a": 0.5, "b": 2.0, "rare": 2.0}, 1), REAL, ["a", "b"])
    mean = np.geomspace(0.5, 20, N_GENES)
    expected = np.log10((mean + mean**2 / 0.5) / (mean + mean**2 / 2)).mean()
    assert gaps["a"] == pytest.approx(expected, abs=0.06)
    assert gaps["b"] < 0.03


def test_a_panel_for_each_class_that_is_large_enough():
    figure = dispersion_figure(REAL, REAL, ["a", "b", "rare"])
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert titles == ["a (400): gap 0.00", "b (300): gap 0.00"]
    assert dispersion_figure(REAL, REAL, ["rare"]) is None


def test_the_largest_classes_are_shown():
    names = [f"c{i}" for i in range(MOST_PANELS + 2)]
    classes = [name for i, name in enumerate(names) for _ in range(MIN_CELLS + i)]
    cells = counted(classes, dict.fromkeys(names, 1.0), 0)
    figure = dispersion_figure(cells, cells, names)
    shown = [axes.get_title().split(" ")[0] for axes in figure.axes if axes.get_visible()]
    assert shown == names[:1:-1]
