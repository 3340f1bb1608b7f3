"""Training in Ray Train workers: the model of any other run, through deaths of workers; errors in a line."""

import shutil
import threading
import time
from pathlib import Path

import psutil
import pytest

from cfgen_scale.model import CFGen
from cfgen_scale.training.checkpoint import checkpoints
from jobs.cli import main
from jobs.training.ray_training import cause_of
from jobs.training.run_directory import RunDirectory
from tests.jobs.training.test_worker import require_equal_but_for_rounding
from tests.small_atlas import SMALL_RUN, metrics_of, train_small
from tests.tree_bytes import tree_bytes

# Ray 2.60 warns of its own settings when its data part, which comes along, is first used.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")


@pytest.fixture(scope="module")
def in_ray(
    small_prepared: Path, migrated_store: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of both stages in two Ray Train workers."""
    folder = tmp_path_factory.mktemp("ray")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    (folder / "mlflow.db").write_bytes(migrated_store.read_bytes())
    return train_small("all", data=small_prepared, run=folder / "run", workers=2, mlflow_uri=uri)


@pytest.mark.ray
def test_two_ray_workers_train_as_one_process_does(in_ray: Path, trained: Path) -> None:
    require_equal_but_for_rounding(in_ray, trained)


@pytest.mark.ray
def test_ray_keeps_the_newest_checkpoints_and_what_came_before_them(in_ray: Path) -> None:
    """Each is a run directory in little: another machine can take it up."""
    (attempt,) = (path for path in (in_ray / "ray").iterdir() if path.name != "parcels")
    assert list((in_ray / "ray" / "parcels").iterdir()) == []
    kept = sorted(path for path in attempt.iterdir() if path.is_dir() and path.name.startswith("checkpoint"))
    assert len(kept) == 2
    assert CFGen.load(kept[-1] / "model").digest == CFGen.load(in_ray / "model").digest
    newest = RunDirectory(kept[0]).checkpoints("flow") / (
        checkpoints(in_ray / "flow" / "checkpoints")[-1].name
    )
    assert tree_bytes(newest) == tree_bytes(in_ray / "flow" / "checkpoints" / newest.name)
    assert RunDirectory(kept[0]).finished("autoencoder")


@pytest.mark.ray
@pytest.mark.slow
def test_workers_that_share_nothing_train_the_same_model_through_deaths(
    in_ray: Path, small_prepared: Path, runs: Path
) -> None:
    """All that lasts goes through Ray's storage; metrics go to the driver's machine."""
    run, storage = runs / "run", str(runs / "storage")
    killer = threading.Thread(target=kill_a_worker, args=(run / "metrics.jsonl", 33), daemon=True)
    killer.start()
    train_small("all", data=small_prepared, run=run, workers=2, storage=storage)
    assert '"a worker was lost' in (run / "metrics.jsonl").read_text()
    assert tree_bytes(run / "model") == tree_bytes(in_ray / "model")
    assert metrics_of(run) == metrics_of(in_ray)
    assert not (run / "flow" / "checkpoints").exists()
    # The driver's directory is lost: the storage has all of it.
    shutil.rmtree(run)
    train_small("all", data=small_prepared, run=run, workers=2, storage=storage)
    assert tree_bytes(run / "model") == tree_bytes(in_ray / "model")


@pytest.mark.ray
def test_an_error_of_a_worker_is_one_line_and_is_not_tried_again(
    small_prepared: Path, runs: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "all", "--data", str(small_prepared), "--run", str(runs / "run"), "--workers", "2"]
    diverging = ["autoencoder.learning_rate=1e30", "autoencoder.warmup_cells=0"]
    assert main([*command, *SMALL_RUN, *diverging]) == 1
    errors = capsys.readouterr().err
    assert "error: training failed in its Ray workers: autoencoder: the loss of rows [" in errors
    assert "starting again" not in errors
    assert "Traceback" not in errors


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_nothing_changes(
    in_ray: Path, small_prepared: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs / "run"
    killer = threading.Thread(target=kill_a_worker, args=(run / "metrics.jsonl", 9), daemon=True)
    killer.start()
    train_small("all", data=small_prepared, run=run, workers=2)
    killer.join(timeout=1)
    assert "starting again" in capsys.readouterr().err
    assert tree_bytes(run / "model") == tree_bytes(in_ray / "model")
    assert metrics_of(run) == metrics_of(in_ray)


def kill_a_worker(metrics: Path, rows: int) -> None:
    """SIGKILL for one Ray Train worker as soon as there are so many rows of metrics."""
    while not metrics.exists() or metrics.read_text().count("\n") < rows:
        time.sleep(0.01)
    # Only descendants of this process: another cluster of this machine is not ours.
    below = psutil.Process().children(recursive=True)
    next(process for process in below if "RayTrainWorker" in process.name()).kill()


def test_an_error_of_no_worker_is_its_own_cause() -> None:
    error = RuntimeError("the controller died")
    assert cause_of(error) is error
