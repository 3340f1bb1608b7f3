"""Training in Ray Train workers: the model of any other run, through deaths of workers; errors in a line."""

import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest

import jobs.ray_training
from jobs.cli import main
from jobs.ray_training import RESTARTS, cause_of, fit_in_ray
from jobs.run_directory import RunDirectory
from tests.jobs.test_worker import require_equal_but_for_rounding
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


def failure(**worker_failures: Exception) -> Exception:
    from ray.train import WorkerGroupError

    return WorkerGroupError("workers failed", dict(enumerate(worker_failures.values())))


@pytest.mark.parametrize(
    ("error", "attempts", "says"),
    [
        (failure(a=ConnectionError("reset"), b=ValueError("loss not finite")), 1, "loss not finite"),
        (failure(a=ConnectionError("reset\n by peer")), RESTARTS + 1, "by peer"),
    ],
    ids=["wrong values", "lost workers"],
)
def test_only_what_may_go_better_is_tried_again(
    error: Exception, attempts: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def fail(*job: Any) -> None:
        tried.append(job)
        raise error

    monkeypatch.setattr(jobs.ray_training, "_fit", fail)
    monkeypatch.setattr(jobs.ray_training, "cluster", lambda workers: nullcontext())
    with pytest.raises(RuntimeError, match=f"training failed in its Ray workers: {says}$"):
        fit_in_ray(RunDirectory(tmp_path), ["flow"], 2)
    assert len(tried) == attempts


def test_an_error_of_no_worker_is_its_own_cause() -> None:
    error = RuntimeError("the controller died")
    assert cause_of(error) is error
