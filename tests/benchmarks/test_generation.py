"""The benchmark of generation compares equals, and its parts make up the whole."""

import time
from pathlib import Path

import anndata
import numpy as np
import pytest

from cfgen_scale.model import CFGen
from jobs.generation.generate import generate_atlas
from jobs.generation.request import Group, Request
from tests.benchmarks import generation, generation_parts, measure_generation, reference_generation, solvers
from tests.benchmarks.random_model import gene_shares, library_for, save_random_model

GENES, CELLS = 300, 600


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("random") / "model", None, genes=GENES)


def test_the_share_of_nonzeros_is_the_one_asked_for() -> None:
    shares = gene_shares(20_000)
    assert shares.sum() == pytest.approx(1)
    mean = library_for(shares, 5.0, 0.05) * shares
    assert np.mean(1 - (5 / (5 + mean)) ** 5) == pytest.approx(0.05, rel=1e-3)


def test_the_plain_loop_draws_cells_of_the_same_distribution(model: Path, tmp_path: Path) -> None:
    """Mean library and share of zeros of 600 cells each, within four standard errors."""
    reference_generation.generate(CFGen.load(model), CELLS, tmp_path / "plain.zarr")
    generate_atlas(model, tmp_path / "ours.zarr", Request((Group(CELLS),)), progress=False)
    plain, ours = (anndata.read_zarr(tmp_path / name) for name in ("plain.zarr", "ours.zarr"))
    assert plain.shape == ours.shape == (CELLS, GENES)
    for of_cells in (lambda x: np.asarray(x.sum(1)).ravel(), lambda x: np.diff(x.indptr)):
        one, other = (of_cells(atlas.X).astype(float) for atlas in (plain, ours))
        error = np.sqrt((one.var() + other.var()) / CELLS)
        assert abs(one.mean() - other.mean()) < 4 * error


def test_parts_make_up_the_whole(model: Path, tmp_path: Path) -> None:
    found = generation_parts.measure(CFGen.load(model), tmp_path, 2)
    assert list(found["parts"]) == list(generation_parts.PARTS)
    assert sum(part["share"] for part in found["parts"].values()) == pytest.approx(1)
    whole = sum(part["microseconds_per_cell"] for part in found["parts"].values())
    assert found["cells_per_second_of_one_core"] == pytest.approx(1e6 / whole)
    assert list(tmp_path.iterdir()) == []


def test_memory_that_grows_with_the_atlas_is_missed_in_any_process() -> None:
    few = {"tree_peak_rss": 100, "largest_peak_rss": 40}
    assert generation.grown(few, {"tree_peak_rss": 109, "largest_peak_rss": 44}) == []
    (of_all,) = generation.grown(few, {"tree_peak_rss": 130, "largest_peak_rss": 40})
    assert "1.30 times the memory (high-water marks of all" in of_all
    assert len(generation.grown(few, {"tree_peak_rss": 130, "largest_peak_rss": 60})) == 2


def test_a_peak_between_two_looks_is_seen(tmp_path: Path) -> None:
    with measure_generation.Watcher(tmp_path / "atlas.zarr", 1) as watcher:
        np.ones(50_000_000)  # 400 MB, held for a moment
        time.sleep(3 * measure_generation.PAUSE_SECONDS)
    with measure_generation.Watcher(tmp_path / "atlas.zarr", 1) as after:
        time.sleep(3 * measure_generation.PAUSE_SECONDS)
    assert max(watcher.peaks.values()) - max(after.peaks.values()) > 300e6


def test_evaluations_of_the_field_are_counted(model: Path) -> None:
    loaded = CFGen.load(model)
    labels = loaded.draw_labels(5, {}, (), seed=0)
    for ode in solvers.SOLVERS:
        found = solvers.evaluations(loaded, labels, ode)
        match ode.solver:
            case "euler":
                assert found == ode.steps
            case "midpoint":
                assert found == 2 * ode.steps
            case _:
                assert found > 6
