"""The benchmark of drawing, in small: its density is the one it says, and its figures make a table."""

import pytest

from tests.benchmarks.drawing import DENSITY, TARGETS, decoder_figures, drawing_figures, lines


def test_the_benchmark_runs_in_small():
    found = {"machine": "", "drawing": drawing_figures(8, 1), "decoder": decoder_figures(8, 1)}
    assert found["drawing"]["density"] == pytest.approx(DENSITY, rel=0.05)
    assert set(TARGETS) <= set(found["drawing"]["ours_over"])
    assert "ours is x" in "\n".join(lines(found))
