"""A run goes on with another number of workers: the same cells in the same order, equal but for rounding."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cfgen_scale.files import read_json
from jobs.tracking import connect
from tests.faults.test_killed_training import ROOT, finish, kill_all, launch, start
from tests.faults.train_until_killed import RARE_CHECKPOINTS
from tests.jobs.training.test_worker import require_equal_but_for_rounding
from tests.small_atlas import train_small

pytestmark = pytest.mark.slow
MOMENTS = {"autoencoder": "after:autoencoder-checkpoint-2", "flow": "after:flow-checkpoint-2"}


def store_of(run: Path) -> str:
    return f"sqlite:///{run.parent / 'mlflow.db'}"


def notes_of(run: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "note" in row]


@pytest.fixture(scope="module")
def by_one(small_prepared: Path, migrated_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process left that was killed in each stage, and the whole run of one process."""
    directory = tmp_path_factory.mktemp("by-one")
    shutil.copy(migrated_store, directory)
    moments = MOMENTS.values()
    finish(start("-m", "tests.faults.train_until_killed", small_prepared, directory, *moments))
    return directory


@pytest.mark.parametrize("stage", MOMENTS)
def test_two_workers_go_on_where_one_was_killed(by_one: Path, small_prepared: Path, stage: str) -> None:
    run = by_one / MOMENTS[stage]
    finish(launch(small_prepared, run, *RARE_CHECKPOINTS))
    require_equal_but_for_rounding(run, by_one / "whole")
    (note,) = notes_of(run)
    assert (note["stage"], note["workers"]) == (stage, 2)
    assert "1 -> 2 workers: the sequence of cells is kept, the last bits of the weights are not" in str(note)
    tracked = connect(store_of(run)).get_run(read_json(run / "mlflow.json")["run_id"]).data
    assert tracked.metrics[f"{stage}/workers"] == 2
    assert tracked.tags[f"note.{stage}.{note['cells_seen']}"] == note["note"]


@pytest.mark.parametrize(("stage", "rows"), [("autoencoder", 9), ("flow", 32)])
def test_one_worker_goes_on_where_two_were_killed(
    by_one: Path, small_prepared: Path, migrated_store: Path, tmp_path: Path, stage: str, rows: int
) -> None:
    shutil.copy(migrated_store, tmp_path)
    run = tmp_path / "run"
    kill_all(launch(small_prepared, run, *RARE_CHECKPOINTS), run, rows)
    train_small("all", data=small_prepared, run=run, overrides=RARE_CHECKPOINTS, mlflow_uri=store_of(run))
    require_equal_but_for_rounding(run, by_one / "whole")
    notes = notes_of(run)
    # Where no checkpoint was complete when they died, one worker begins anew and keeps all.
    assert [(note["stage"], note["workers"]) for note in notes] in ([(stage, 1)], [])


@pytest.mark.ray
def test_ray_takes_the_workers_that_the_cluster_has_room_for(
    small_prepared: Path, migrated_store: Path, tmp_path: Path
) -> None:
    """A node comes and one dies while 1:2 workers train."""
    shutil.copy(migrated_store, tmp_path)
    program = [sys.executable, "-m", "tests.faults.grow_and_shrink", small_prepared, tmp_path / "run"]
    ran = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "run" / "model").exists()
    workers = [note.get("workers") for note in notes_of(tmp_path / "run")]
    assert [n for n in workers if n is not None] == [2, 1]


@pytest.mark.parametrize(
    ("trials", "through_ray", "torchrun"),
    [(4, 0, 0), pytest.param(0, 4, 0, marks=pytest.mark.ray), (0, 0, 2)],
)
def test_killed_at_random_moments(
    small_prepared: Path, tmp_path: Path, trials: int, through_ray: int, torchrun: int
) -> None:
    """A few of the trials of tests/faults/kill_trials.py."""
    asked = ["--data", small_prepared, "--out", tmp_path, "--trials", trials, "--ray", through_ray]
    asked += ["--torchrun", torchrun]
    finish(start("-m", "tests.faults.kill_trials", *map(str, asked)), patience=900.0)
