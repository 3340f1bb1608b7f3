"""Balls and neighbours whose answers can be counted by hand."""

import numpy as np
import pytest

from cfgen_scale.evaluation.manifolds import distances_to_neighbours, manifolds

RANDOM = np.random.default_rng(5)


def measure(cells: np.ndarray, reference: np.ndarray, **options: int) -> dict[str, float]:
    return manifolds(cells, reference, **({"seed": 0, "max_cells": 5000} | options))


def on_a_line(*places: float) -> np.ndarray:
    return np.array(places, dtype=float)[:, None]


def test_cells_of_one_distribution_cover_each_other_and_cannot_be_told_apart() -> None:
    found = measure(RANDOM.normal(size=(800, 3)), RANDOM.normal(size=(800, 3)))
    assert found["precision"] == pytest.approx(found["recall"], abs=0.05)
    # of the cells of one continuous distribution, 1 - 2^-5 are covered, whatever the dimension
    assert found["coverage"] == pytest.approx(1 - 2**-5, abs=0.03)
    assert found["density"] == pytest.approx(1, abs=0.08)
    assert found["one_neighbour_accuracy"] == pytest.approx(0.5, abs=0.04)


def test_distant_cells_share_nothing() -> None:
    found = measure(RANDOM.normal(size=(50, 3)), 100 + RANDOM.normal(size=(50, 3)))
    assert {found[name] for name in ("precision", "recall", "density", "coverage")} == {0.0}
    assert found["one_neighbour_accuracy"] == 1.0


def test_cells_of_one_mode_of_two_are_precise_but_leave_half_out() -> None:
    real = np.concatenate([RANDOM.normal(size=(200, 2)), 50 + RANDOM.normal(size=(200, 2))])
    found = measure(RANDOM.normal(size=(400, 2)), real)
    assert found["precision"] > 0.9
    assert found["recall"] == pytest.approx(0.5, abs=0.05)
    assert found["coverage"] == pytest.approx(0.5, abs=0.05)


def test_a_copy_of_every_cell_is_nearer_than_any_other() -> None:
    real = RANDOM.normal(size=(100, 4))
    found = measure(real + 1e-9, real)
    assert found["one_neighbour_accuracy"] == 0.0
    assert found["precision"] == found["recall"] == found["coverage"] == 1.0


def test_balls_reach_to_the_third_and_fifth_neighbour() -> None:
    real = on_a_line(0, 1, 2, 3, 4, 5)  # third neighbours are 3, 2, 2, 2, 2, 3 away; fifth 5, 4, 3, 3, 4, 5
    made = on_a_line(-3, -4, 8, 100, 101, 102)
    found = measure(made, real)
    # -3 lies in the ball of 0 and 8 in that of 5; -4 lies in none
    assert found["precision"] == pytest.approx(2 / 6)
    # with fifth neighbours -3 is in the balls of 0 and 1, -4 in that of 0, 8 in those of 5 and 4
    assert found["density"] == pytest.approx(5 / (5 * 6))
    assert found["coverage"] == pytest.approx(4 / 6)


def test_a_tie_between_the_sides_is_half_a_point() -> None:
    real, made = on_a_line(0, 2, 10, 20, 30, 40), on_a_line(1, 11, 21, 31, 41, 51)
    found = measure(made, real)
    # all real cells but none at a tie; of generated cells 1 lies 1 from both its real neighbours: not own
    assert found["one_neighbour_accuracy_of_real"] == 0.0
    tied = measure(on_a_line(4, 6, 100, 200, 300, 400), on_a_line(0, 2, 1000, 2000, 3000, 4000))
    # 2 is 2 from 0 and 2 from 4; so is 4 from 6 and 2; 0 and 6 have their own side nearest
    assert tied["one_neighbour_accuracy_of_generated"] == pytest.approx((0.5 + 1 + 4) / 6)


def test_both_sides_count_equally_many_cells_and_draws_are_seeded() -> None:
    cells, reference = RANDOM.normal(size=(300, 2)), RANDOM.normal(size=(40, 2))
    assert measure(cells, reference) == measure(cells, reference)
    assert measure(cells, reference) != measure(cells, reference, seed=1)
    assert measure(cells, reference, max_cells=20)["precision"] * 20 == pytest.approx(
        round(measure(cells, reference, max_cells=20)["precision"] * 20)
    )


def test_neighbours_are_those_of_all_pairs() -> None:
    points = RANDOM.normal(size=(60, 4)) + 1e4  # far from the origin, where expanded squares lose digits
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.testing.assert_allclose(distances_to_neighbours(points, 4), np.sort(apart, axis=1)[:, 1:5], rtol=1e-6)


def test_too_few_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 6 cells on each side; there are 5"):
        measure(np.zeros((5, 2)), np.zeros((50, 2)))
