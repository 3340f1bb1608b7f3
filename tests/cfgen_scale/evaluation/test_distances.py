import numpy as np
import pytest
from scipy.stats import norm

from cfgen_scale.evaluation.distances import KERNEL_SCALES, compare, mmd2, w2

RANDOM = np.random.default_rng(5)


def test_w2_of_a_shuffled_set_is_zero() -> None:
    x = RANDOM.normal(size=(40, 6))
    assert w2(x, x[RANDOM.permutation(40)]) == pytest.approx(0, abs=1e-6)


def test_w2_of_a_translated_set_is_the_length_of_the_translation() -> None:
    x, shift = RANDOM.normal(size=(50, 4)), np.array([3.0, 0, 4, 0])
    assert w2(x, x[::-1] + shift) == pytest.approx(5)


def test_w2_in_one_dimension_matches_sorted_values() -> None:
    x, y = RANDOM.normal(0, 1, 200), RANDOM.normal(2, 3, 200)
    sorted_cost = np.sqrt(np.mean((np.sort(x) - np.sort(y)) ** 2))
    assert w2(x[:, None], y[:, None]) == pytest.approx(sorted_cost)


def test_w2_of_gaussians_in_one_dimension() -> None:
    """W2^2 = (difference of means)^2 + (difference of standard deviations)^2."""
    quantiles = (np.arange(400) + 0.5) / 400
    x, y = norm.ppf(quantiles, 0, 1)[:, None], norm.ppf(quantiles, 2, 3)[:, None]
    assert w2(x, y) == pytest.approx(np.sqrt(2**2 + 2**2), rel=0.02)


def test_w2_splits_mass_between_sets_of_unequal_size() -> None:
    # half of the mass of one point goes 1 to the left, half 3 to the right: (1 + 9) / 2
    assert w2(np.array([[0.0]]), np.array([[-1.0], [3.0]])) == pytest.approx(np.sqrt(5))


def test_mmd_of_identical_sets_is_zero() -> None:
    x = RANDOM.normal(size=(30, 5))
    assert mmd2(x, x[::-1]) == pytest.approx(0, abs=1e-12)


def test_mmd_of_two_points_a_side_by_hand() -> None:
    """x = {0, 1}, y = {0, 2} on a line: the kernels of distances 0, 1, 2 are all that is needed."""

    def kernel(distance: float) -> float:
        return sum(np.exp(-(distance**2) / (2 * s**2)) for s in KERNEL_SCALES)

    x, y = np.array([[0.0], [1]]), np.array([[0.0], [2]])
    between = (kernel(0) + kernel(2) + kernel(1) + kernel(1)) / 4
    biased = (kernel(0) + kernel(1)) / 2 + (kernel(0) + kernel(2)) / 2 - 2 * between
    assert mmd2(x, y) == pytest.approx(biased)
    assert mmd2(x, y, unbiased=True) == pytest.approx(kernel(1) + kernel(2) - 2 * between)


def test_unbiased_mmd_is_zero_on_average_and_the_biased_is_not() -> None:
    draws = [RANDOM.normal(size=(2, 8, 3)) for _ in range(400)]
    biased = np.mean([mmd2(x, y) for x, y in draws])
    unbiased = [mmd2(x, y, unbiased=True) for x, y in draws]
    assert abs(np.mean(unbiased)) < 4 * np.std(unbiased) / np.sqrt(400)
    assert biased > 0.5


def test_mmd_is_of_equally_many_cells_and_w2_of_all() -> None:
    x, y = RANDOM.normal(size=(10, 2)), RANDOM.normal(size=(25, 2))
    assert compare(x, y) == {
        "w2": w2(x, y),
        "mmd2": mmd2(x, y[:10]),
        "mmd2_unbiased": mmd2(x, y[:10], unbiased=True),
    }


def test_one_cell_has_no_mmd() -> None:
    with pytest.raises(ValueError, match="at least 2 cells"):
        mmd2(np.zeros((1, 3)), np.zeros((5, 3)))
