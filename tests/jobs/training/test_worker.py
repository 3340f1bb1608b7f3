"""Workers without Ray: two processes of torchrun, or of accelerate launch, train as one does."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from jobs.training.worker import make_accelerator, meet, new_model, threads_of_worker
from loaders.preparation.prepared import Prepared
from loaders.streaming.order import Order
from tests.small_atlas import N_TRAIN, SMALL_RUN, metrics_of
from tests.tree_bytes import tree_bytes

ROOT = Path(__file__).parents[3]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--", "jobs.cli")
ACCELERATE = ("-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2")
ACCELERATE += ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "jobs.cli")


def launch(launcher: Sequence[str], data: Path, run: Path) -> subprocess.CompletedProcess[str]:
    """``train all --workers 0`` of the small run in each of the processes that ``launcher`` starts."""
    where = ("--data", str(data), "--run", str(run), "--mlflow-uri", f"sqlite:///{run.parent / 'mlflow.db'}")
    return subprocess.run(
        [sys.executable, *launcher, "train", "all", *where, "--workers", "0", *SMALL_RUN],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def require_equal_but_for_rounding(run: Path, other: Path) -> None:
    """The same rows of metrics and the same weights; sums over workers are rounded in another order."""
    for row, of_other in zip(metrics_of(run), metrics_of(other), strict=True):
        assert row.pop("stage") == of_other.pop("stage")
        assert row == pytest.approx(of_other, rel=1e-3)
    for stage in ("autoencoder", "flow"):
        torch.testing.assert_close(*weights_of(stage, run, other), rtol=1e-3, atol=1e-4)


def weights_of(stage: str, *runs: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(run / stage / "result.safetensors") for run in runs]


@pytest.fixture(scope="module")
def two_processes(
    small_prepared: Path, migrated_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of both stages in two processes."""
    folder = tmp_path_factory.mktemp("torchrun")
    shutil.copy(migrated_store, folder)
    ran = launch(TORCHRUN, small_prepared, folder / "run")
    assert ran.returncode == 0, ran.stderr
    return folder / "run"


def test_the_small_run_has_a_batch_of_which_one_worker_gets_no_cell() -> None:
    order = Order(N_TRAIN, 32, seed=0)
    last = N_TRAIN // 32 * 32
    assert [len(order.batch(last, rank=rank, world=2).places) for rank in (0, 1)] == [1, 0]


def test_two_processes_train_as_one_does(two_processes: Path, trained: Path) -> None:
    require_equal_but_for_rounding(two_processes, trained)


@pytest.mark.slow
def test_two_processes_on_a_run_that_is_trained_both_end(two_processes: Path, small_prepared: Path) -> None:
    before = tree_bytes(two_processes)
    ran = launch(TORCHRUN, small_prepared, two_processes)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("is already trained") == 1
    assert tree_bytes(two_processes) == before


@pytest.mark.slow
def test_accelerate_launch_is_another_way_to_start_them(
    two_processes: Path, small_prepared: Path, runs: Path
) -> None:
    ran = launch(ACCELERATE, small_prepared, runs / "run")
    assert ran.returncode == 0, ran.stderr
    assert tree_bytes(runs / "run" / "model") == tree_bytes(two_processes / "model")


def test_a_worker_that_is_alone_says_so() -> None:
    with pytest.raises(RuntimeError, match="sees 1 processes instead of 2"):
        meet(2, on_gpu=False)


def test_initial_weights_depend_on_the_seed_alone(small_prepared: Path) -> None:
    from jobs.config import load_config

    prepared = Prepared.open(small_prepared)
    first, same, other = (
        new_model(load_config(overrides=[*SMALL_RUN, f"seed={seed}"]), prepared).state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], same[name]) for name in first)
    inward = "velocity.inward.weight"
    assert not np.allclose(first[inward], other[inward])


def test_the_environment_does_not_scale_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    accelerator = make_accelerator("float32", on_gpu=False)
    weight = torch.ones(1, requires_grad=True)
    accelerator.backward((3 * weight).sum())
    assert weight.grad is not None
    assert weight.grad.item() == 3.0


def test_threads_are_the_cpus_that_this_process_may_use_shared_by_the_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_use = os.sched_getaffinity(0)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    os.sched_setaffinity(0, {min(may_use)})
    try:
        assert threads_of_worker() == 1
    finally:
        os.sched_setaffinity(0, may_use)
    monkeypatch.setattr("joblib.cpu_count", lambda: 12)
    for of_machine, threads in (("1", 12), ("4", 3), ("5", 2), ("16", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", of_machine)
        assert threads_of_worker() == threads
