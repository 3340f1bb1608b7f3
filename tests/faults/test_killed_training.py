"""Training that was killed, whenever, is finished by the same call, to the same bits."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from jobs.tracking import connect
from jobs.training.run_directory import RunDirectory
from tests.faults.train_until_killed import train
from tests.small_atlas import SMALL_RUN, metrics_of
from tests.tree_bytes import tree_bytes

ROOT = Path(__file__).parents[2]
MOMENTS = [
    "after:autoencoder-row-9",
    "before:autoencoder-checkpoint-2",
    "after:autoencoder-checkpoint-2",
    "before:autoencoder-result",
    "after:autoencoder-result",
    "before:latents",
    "after:flow-row-9",
    "after:flow-checkpoint-2",
    "before:flow-result",
    "before:model",
    "after:model",
]


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """A Python program in the repository's root."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def killed(small_prepared: Path, migrated_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of what killed runs left, one for each moment, and of the whole run."""
    directory = tmp_path_factory.mktemp("killed")
    shutil.copy(migrated_store, directory)
    program = start("-m", "tests.faults.train_until_killed", small_prepared, directory, *MOMENTS)
    _, errors = program.communicate(timeout=240)
    assert program.returncode == 0, errors
    return directory


def require_same_run(run: Path, whole: Path) -> None:
    """The same model and metrics, nothing twice, and nothing left lying about."""
    assert tree_bytes(run / "model") == tree_bytes(whole / "model")
    assert metrics_of(run) == metrics_of(whole)
    places = [(row["stage"], row["cells_seen"]) for row in metrics_of(run)]
    assert len(set(places)) == len(places)
    assert [path for path in run.rglob("*") if "aside" in path.name] == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_and_run_again(killed: Path, small_prepared: Path, moment: str) -> None:
    run = RunDirectory(killed / moment)
    assert run.finished("autoencoder") == (MOMENTS.index(moment) > MOMENTS.index("before:autoencoder-result"))
    assert run.model.exists() == (moment == "after:model")
    train(small_prepared, run.path)
    require_same_run(run.path, killed / "whole")


def test_a_row_of_metrics_that_was_cut_short_is_written_again(killed: Path, small_prepared: Path) -> None:
    run = shutil.copytree(killed / "whole", killed / "cut")
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "flow")
    (run / "mlflow.json").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    n_before_the_flow = sum('"autoencoder"' in line for line in lines)
    (run / "metrics.jsonl").write_text("".join(lines[:n_before_the_flow]) + lines[n_before_the_flow][:40])
    train(small_prepared, run)
    require_same_run(run, killed / "whole")


def test_mlflow_has_each_metric_of_a_resumed_run_once(killed: Path, small_prepared: Path) -> None:
    run = train(small_prepared, killed / "after:flow-row-9")
    client = connect(f"sqlite:///{killed / 'mlflow.db'}")
    (tracked,) = [r for r in client.search_runs(["1"]) if r.info.run_name == run.name]
    assert tracked.info.status == "FINISHED"
    for stage in ("autoencoder", "flow"):
        steps = [m.step for m in client.get_metric_history(tracked.info.run_id, f"{stage}/loss")]
        assert steps == [row["cells_seen"] for row in metrics_of(run) if row["stage"] == stage]


@pytest.mark.slow
@pytest.mark.parametrize("rows", [9, 32], ids=["autoencoder", "flow"])
def test_two_processes_killed_and_launched_again(
    by_two: Path, small_prepared: Path, migrated_store: Path, tmp_path: Path, rows: int
) -> None:
    """All processes are killed at once when there are so many rows of metrics."""
    shutil.copy(migrated_store, tmp_path)
    run = tmp_path / "run"
    kill_all(launch(small_prepared, run), run, rows)
    assert not (run / "model").exists()
    finish(launch(small_prepared, run))
    require_same_run(run, by_two)


@pytest.fixture(scope="module")
def by_two(small_prepared: Path, migrated_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that two processes trained undisturbed."""
    folder = tmp_path_factory.mktemp("by-two")
    shutil.copy(migrated_store, folder)
    finish(launch(small_prepared, folder / "run"))
    return folder / "run"


def kill_all(launched: subprocess.Popen[str], run: Path, rows: int) -> None:
    """SIGKILL for a launcher and its workers when there are so many rows of metrics."""
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_text().count("\n") < rows:
        assert launched.poll() is None, launched.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    kill_tree(launched)


def kill_tree(launched: subprocess.Popen[str]) -> None:
    """SIGKILL for a launcher and its workers."""
    launcher = psutil.Process(launched.pid)
    # torchrun gives each worker a session of its own: they are not in its process group.
    for process in (launcher, *launcher.children(recursive=True)):
        process.kill()
    launched.communicate()


def launch(data: Path, run: Path, *overrides: str) -> subprocess.Popen[str]:
    """``train all`` in two processes of torchrun, tracked in the store beside the run."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--")
    where = ("--data", data, "--run", run, "--mlflow-uri", f"sqlite:///{run.parent / 'mlflow.db'}")
    return start(*torchrun, "jobs.cli", "train", "all", *where, "--workers", "0", *SMALL_RUN, *overrides)


def finish(launched: subprocess.Popen[str], patience: float = 240.0) -> None:
    try:
        _, errors = launched.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        kill_tree(launched)
        raise
    assert launched.returncode == 0, errors
