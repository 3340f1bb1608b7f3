"""A worker that sees the shared run directory late does what the first worker does."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.faults.test_killed_training import finish, kill_all, require_same_run, start
from tests.jobs.training.test_worker import TORCHRUN
from tests.small_atlas import SMALL_RUN

pytestmark = pytest.mark.slow
LATE = "2"


def launch(data: Path, run: Path) -> subprocess.Popen[str]:
    where = ("--data", data, "--run", run, "--mlflow-uri", f"sqlite:///{run.parent / 'mlflow.db'}")
    late = (*TORCHRUN[:-1], "tests.faults.late_view", run, LATE)
    return start(*late, "train", "all", *where, "--workers", "0", *SMALL_RUN)


@pytest.fixture(scope="module")
def seen_late(small_prepared: Path, migrated_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose second worker saw everything late."""
    folder = tmp_path_factory.mktemp("late")
    shutil.copy(migrated_store, folder)
    finish(launch(small_prepared, folder / "run"))
    return folder / "run"


def test_a_run_that_is_trained_already_ends_on_both(seen_late: Path, small_prepared: Path) -> None:
    """The second worker would begin to train, and wait for the first one for ever."""
    for path in seen_late.rglob("*"):
        path.touch()
    finish(launch(small_prepared, seen_late))


def test_a_checkpoint_that_is_seen_late_is_waited_for(
    seen_late: Path, small_prepared: Path, migrated_store: Path, tmp_path: Path
) -> None:
    shutil.copy(migrated_store, tmp_path)
    run = tmp_path / "run"
    kill_all(launch(small_prepared, run), run, 5)
    for path in run.rglob("*"):
        path.touch()
    finish(launch(small_prepared, run))
    require_same_run(run, seen_late)
