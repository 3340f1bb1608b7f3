"""Training in Ray Train workers: the machines, and nothing of what they compute."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .cluster import cluster
from .run_directory import RunDirectory

RESTARTS = 3
# Every report of a checkpoint waits for Ray's controller to look, which it does every 2 s by itself.
POLLS = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25"}


def fit_in_ray(run: RunDirectory, stages: Sequence[str], workers: int) -> None:
    """Run ``train_worker`` on ``workers`` Ray Train workers until the stages are trained.

    When a worker dies all are started again, up to three times, and training continues from the newest
    checkpoint of the run directory, which all workers must see (a shared file system). An error in the
    values (ValueError: cells, configuration, a loss that is not finite) would come again and is not tried
    again. Raises RuntimeError with the worker's own error if training fails.
    """
    import ray.train

    for name, seconds in POLLS.items():
        os.environ.setdefault(name, seconds)
    with cluster(workers):
        for attempt in range(RESTARTS + 1):
            try:
                _fit(run, stages, workers)
                break
            except ray.train.TrainingFailedError as error:
                cause = cause_of(error)
                if isinstance(cause, ValueError) or attempt == RESTARTS:
                    raise RuntimeError(f"training failed in its Ray workers: {in_words(cause)}") from error
                print(f"a worker was lost ({in_words(cause)}); starting again.", file=sys.stderr)


def _fit(run: RunDirectory, stages: Sequence[str], workers: int) -> None:
    import ray
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    on_gpu = ray.cluster_resources().get("GPU", 0) >= workers
    trainer = TorchTrainer(
        _ray_worker,
        train_loop_config={"run": str(run.path.resolve()), "stages": list(stages), "workers": workers},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=on_gpu),
        run_config=ray.train.RunConfig(
            # Not a name that was used before: Ray would take up the state it keeps under it.
            name=f"{time.time_ns()}",
            storage_path=str((run.path / "ray").resolve()),
        ),
    )
    trainer.fit()


def _ray_worker(job: Mapping[str, Any]) -> None:
    import ray.train

    from .worker import train_worker

    def announce(place: Mapping[str, Any]) -> None:
        ray.train.report(dict(place))

    train_worker(Path(job["run"]), job["stages"], workers=job["workers"], announce=announce)


def cause_of(error: BaseException) -> BaseException:
    """What a worker raised itself, a ValueError first: the others fail after it, by lost connections."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    raised = list(failures.values())
    return next((cause for cause in raised if isinstance(cause, ValueError)), raised[0])


def in_words(cause: BaseException) -> str:
    """The last line of an error's message, where Ray puts the worker's own words below a traceback."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[-1] if lines else repr(cause)
