"""Training in Ray Train workers: the machines, and nothing of what they compute."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from ..cluster import cluster
from ..device import Device, device_in_cluster, training_on
from .agreement import GROUP_PATIENCE
from .books import BooksOnDisk, append_metrics, last_place
from .machines import Machines
from .parcel import unpack
from .ray_worker import RayJob, ray_worker
from .run_directory import RunDirectory

CHECKPOINTS_KEPT = 2
# How often Ray looks whether an elastic run could have more workers, in seconds; a change costs a restart.
LOOK_FOR_ROOM = 60.0
# Every report of a checkpoint waits for Ray's controller to look, which it does every 2 s by itself.
POLLS = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25"}


def fit_in_ray(run: RunDirectory, stages: Sequence[str], machines: Machines) -> None:
    """Train the stages on Ray Train workers: as many as the cluster has room for.

    Ray restarts all workers where one is lost, at most ``restarts`` times (nodes whose end was announced do
    not count), and begins anew with more or fewer where the cluster grows or shrinks; training continues from
    the newest checkpoint. Without a storage that lies in the run directory, which all workers must see. With
    one, a directory or URI such as s3://bucket/runs, workers need not share anything else: Ray keeps the
    checkpoints there, and at the end brings the results to the run directory.

    An error in the values (ValueError: cells, configuration, a loss that is not finite) would come again and
    ends the run. Raises RuntimeError with the worker's own error if training fails, and ConfigError where
    GPUs are asked for and the cluster has too few.
    """
    import ray.train

    for name, seconds in POLLS.items():
        os.environ.setdefault(name, seconds)
    with cluster(machines.slots):
        try:
            result = _trainer(run, stages, machines).fit()
        except ray.train.TrainingFailedError as error:
            raise RuntimeError(f"training failed in its Ray workers: {in_words(cause_of(error))}") from error
        if machines.storage is not None:
            with result.checkpoint.as_directory() as parcel:
                unpack(Path(parcel), run)


def _trainer(run: RunDirectory, stages: Sequence[str], machines: Machines) -> Any:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    device, why = device_in_cluster(machines.device, machines.gpus_needed)
    print(training_on(device, why))
    document, storage = run.document(), machines.storage
    job = RayJob(
        tuple(stages),
        run=str(run.path.resolve()) if storage is None else None,
        device=device,
        owner=run.lock.read_text(),
        document=document,
        books=None if storage is None else _keep_books(run),
        cache=machines.cache,
    )
    # Ray takes up what it keeps under a name. With a storage that is wanted: the same run goes on. A shared
    # run directory knows more than Ray, so that each attempt has a name of its own.
    name = f"{time.time_ns()}" if storage is None else name_in_storage(run, document)
    if storage is None:
        shutil.rmtree(run.path / "ray", ignore_errors=True)
    return TorchTrainer(
        ray_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if device == "cuda" else "gloo", timeout_s=GROUP_PATIENCE),
        scaling_config=_scaling(machines, device),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str((run.path / "ray").resolve()) if storage is None else storage,
            failure_config=ray.train.FailureConfig(max_failures=machines.restarts),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
            callbacks=[_lost_workers(run.metrics.resolve())],
        ),
    )


def _scaling(machines: Machines, device: Device) -> Any:
    """How many workers, on what, and where."""
    import ray.train

    workers = machines.workers
    # GPUs are not reserved for training on the CPU.
    resources = {name: n for name, n in machines.resources.items() if device == "cuda" or name != "GPU"}
    return ray.train.ScalingConfig(
        num_workers=(workers.least, workers.most) if workers.elastic else workers.most,
        use_gpu=device == "cuda",
        resources_per_worker={"CPU": 1.0, **resources},
        placement_strategy=machines.placement.upper().replace("-", "_"),
        elastic_resize_monitor_interval_s=LOOK_FOR_ROOM,
    )


def name_in_storage(run: RunDirectory, document: Mapping[str, Any]) -> str:
    """A name that another run directory of this name has only with the same configuration and cells."""
    made_of = json.dumps([document["config"], document["data_digest"]], sort_keys=True)
    return f"{run.path.resolve().name}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"


def _keep_books(run: RunDirectory) -> Any:
    """An actor on this machine that writes RUN/metrics.jsonl for workers that do not see it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(BooksOnDisk).options(num_cpus=0, scheduling_strategy=here)
    return actor.remote(run.metrics.resolve())


def _lost_workers(metrics: Path) -> Any:
    """Ray Train's callback at a failure: ends the run at an error in the values, else notes the restart.

    It runs in Ray's controller, which Ray starts on the driver's machine.
    """
    import ray.train

    class LostWorkers(ray.train.UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
            cause = first_cause(worker_exceptions.values())
            if isinstance(cause, ValueError):
                # What a callback raises ends the run, without another attempt.
                raise cause
            why = shorten(in_words(cause), 120, placeholder=" ...")
            note = f"a worker was lost ({why}); starting again"
            append_metrics(metrics, {**last_place(metrics), "note": note})

    return LostWorkers()


def cause_of(error: BaseException) -> BaseException:
    """What a worker raised itself, if there is one; else what Ray's controller raised, or the error."""
    if failures := getattr(error, "worker_failures", None):
        return first_cause(failures.values())
    return getattr(error, "controller_failure", error)


def first_cause(raised: Any) -> BaseException:
    """A ValueError first: the others fail after it, by lost connections."""
    errors = list(raised)
    return next((error for error in errors if isinstance(error, ValueError)), errors[0])


def in_words(cause: BaseException) -> str:
    """The last line of an error's message, where Ray puts the worker's own words below a traceback."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[-1] if lines else repr(cause)
