"""Training in Ray Train workers: the machines, and nothing of what they compute."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .cluster import cluster
from .run_directory import RunDirectory

RESTARTS = 3


def fit_in_ray(run: RunDirectory, stages: Sequence[str], workers: int) -> None:
    """Run ``train_worker`` on ``workers`` Ray Train workers until the stages are trained.

    A worker that dies is replaced, up to three times, and training continues from the newest checkpoint of
    the run directory, which all workers must see (a shared file system). Raises RuntimeError with the
    worker's own error if training fails.
    """
    import ray
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    with cluster(workers):
        on_gpu = ray.cluster_resources().get("GPU", 0) >= workers
        trainer = TorchTrainer(
            _ray_worker,
            train_loop_config={"run": str(run.path.resolve()), "stages": list(stages), "workers": workers},
            torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
            scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=on_gpu),
            run_config=ray.train.RunConfig(
                name=time.strftime("%Y%m%d-%H%M%S"),
                storage_path=str((run.path / "ray").resolve()),
                failure_config=ray.train.FailureConfig(max_failures=RESTARTS),
            ),
        )
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise RuntimeError(f"training failed in its Ray workers: {_first_cause(error)}") from error


def _ray_worker(job: Mapping[str, Any]) -> None:
    import ray.train

    from .worker import train_worker

    def announce(place: Mapping[str, Any]) -> None:
        ray.train.report(dict(place))

    train_worker(Path(job["run"]), job["stages"], workers=job["workers"], announce=announce)


def _first_cause(error: BaseException) -> str:
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        lines = [line for line in str(failure).splitlines() if line.strip()]
        return lines[-1].strip() if lines else repr(failure)
    return str(error)
