"""A generation that was killed, whenever, is completed by the same call, to the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.generation.generate import generate_atlas
from jobs.generation.request import Group, Request
from loaders.atlases.writer import PartialAtlas
from tests.faults.generate_until_killed import generate
from tests.tiny_model import save_tiny_model
from tests.tree_bytes import tree_bytes

CHUNKS = 5
CHUNKS_RENAMED = 2 + CHUNKS  # the plan, the model, the chunks
RENAMES = CHUNKS_RENAMED + 1 + 2 + 1  # the layout, receipts of its two tasks, the atlas
ROOT = Path(__file__).parents[2]
MANY_CHUNKS = Request((Group(2000, {"cell_type": "B"}),))
RAY_DRIVER = """
import sys
from jobs.generation.generate import generate_atlas
from tests.faults.test_killed_generation import MANY_CHUNKS
generate_atlas(sys.argv[1], sys.argv[2], MANY_CHUNKS, chunk_cells=5, workers=2, progress=False)
"""


def start(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def killed(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of what killed generations left, one for each moment."""
    directory = tmp_path_factory.mktemp("killed")
    program = start("-m", "tests.faults.generate_until_killed", model_path, directory)
    output, errors = program.communicate(timeout=120)
    assert program.returncode == 0, errors
    assert output.strip() == str(RENAMES)
    return directory


@pytest.mark.parametrize("n", range(1, RENAMES + 1))
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_rename_and_run_again(killed: Path, model_path: Path, when: str, n: int) -> None:
    out = killed / f"{when}_{n}.zarr"
    partial = PartialAtlas.beside(out)
    renamed = n - 1 if when == "before" else n
    assert out.exists() == (renamed == RENAMES)
    if partial.path.exists():
        assert len(partial.chunks_there()) == min(max(renamed - 2, 0), CHUNKS)
    generate(model_path, out)
    assert tree_bytes(out) == tree_bytes(killed / "undisturbed.zarr")
    assert not partial.path.exists()


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_that_dies_takes_nothing_with_it(model_path: Path, tmp_path: Path) -> None:
    """The atlas is what one process writes, and all workers that went on were on the node that is left."""
    out, undisturbed = tmp_path / "atlas.zarr", tmp_path / "undisturbed.zarr"
    trial = start("-m", "tests.faults.lose_a_node", model_path, out, RAY_AUTH_MODE="disabled")
    output, errors = trial.communicate(timeout=280)
    assert trial.returncode == 0, errors
    assert "a node died with chunks under way" in output
    generate_atlas(model_path, undisturbed, MANY_CHUNKS, chunk_cells=5, progress=False)
    assert tree_bytes(out) == tree_bytes(undisturbed)
    assert not PartialAtlas.beside(out).path.exists()


@pytest.mark.ray
def test_driver_of_ray_workers_killed_and_run_again(model_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "atlas.zarr"
    chunks = PartialAtlas.beside(out).path / "chunks"
    driver = start("-c", RAY_DRIVER, model_path, out, RAY_AUTH_MODE="disabled")
    deadline = time.monotonic() + 120
    while not list(chunks.glob("*/[0-9]*.safetensors")):
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    assert not out.exists()
    generate_atlas(model_path, out, MANY_CHUNKS, chunk_cells=5, progress=False)
    undisturbed = generate_atlas(
        model_path, tmp_path / "undisturbed.zarr", MANY_CHUNKS, chunk_cells=5, progress=False
    )
    assert tree_bytes(out) == tree_bytes(undisturbed)
