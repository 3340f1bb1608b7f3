"""Training as a job: check, start or resume the run, watch it, register the model."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .config import ConfigError, load_config
from .run_directory import RunDirectory, open_run, sole_trainer

if TYPE_CHECKING:
    from cfgen_scale.training.config import TrainConfig
    from loaders.prepared import Prepared

Stages = Literal["autoencoder", "flow", "all"]


def train(
    stages: Stages,
    *,
    data: Path | str,
    run: Path | str,
    config_file: Path | str | None = None,
    overrides: Sequence[str] = (),
    workers: int = 1,
    mlflow_uri: str | None = None,
    experiment: str = "cfgen-scale",
    register_as: str | None = None,
    alias: str = "champion",
) -> Path:
    """Train on a prepared atlas; the same call again resumes. Returns the run directory.

    workers       Ray Train workers; 0 trains in this process without Ray (under torchrun or accelerate
                  launch: in each of their processes)
    register_as   name in the MLflow registry for the model, which gets ``alias``

    Raises ConfigError, RunError and what Prepared.open raises before work starts.
    """
    from loaders.prepared import Prepared

    data, run = Path(data), Path(run)
    prepared = Prepared.open(data)
    config = load_config(config_file, overrides)
    world = workers or int(os.environ.get("WORLD_SIZE", 1))
    check(config, prepared, world)
    names = ("autoencoder", "flow") if stages == "all" else (stages,)
    first = int(os.environ.get("RANK", 0)) == 0
    directory = RunDirectory(run)
    if first:
        directory = open_run(run, config=asdict(config), data=data, data_digest=prepared.digest)
    if stages == "flow" and not directory.finished("autoencoder"):
        raise ConfigError(
            f"{run} has no trained autoencoder yet. Run `train autoencoder` or `train all` first."
        )
    if not first:
        _train_here(directory, names, world)
        return run
    with sole_trainer(directory), _watched(directory, prepared, mlflow_uri, experiment) as tracker:
        if all(directory.finished(name) for name in names) and directory.model.exists():
            print(f"{run} is already trained.")
        elif workers:
            from .ray_training import fit_in_ray

            fit_in_ray(directory, names, workers)
        else:
            _train_here(directory, names, world)
    if register_as and directory.model.exists():
        tracker.register(directory.model, register_as, alias)
    return run


def _train_here(directory: RunDirectory, names: Sequence[str], world: int) -> None:
    from .worker import train_worker

    train_worker(directory.path, names, workers=world)


def check(config: "TrainConfig", prepared: "Prepared", world: int) -> None:
    """Refuse, before anything starts, a configuration that cannot run here with ``world`` workers."""
    from loaders.order import Order

    schema = prepared.schema
    for key, name in (
        ("model.autoencoder.theta_by", config.model.autoencoder.theta_by),
        ("model.size_factors_by", config.model.size_factors_by),
    ):
        known = [c.name for c in schema.covariates]
        if name is not None and name not in known:
            raise ConfigError(
                f"{key}={name!r} is no label of the prepared atlas. Its labels: {', '.join(known)}."
            )
    n_train, n_validation = len(prepared.rows("train")), len(prepared.rows("validation"))
    for section, stage in (("autoencoder", config.autoencoder), ("flow", config.flow)):
        try:
            Order(n_train, stage.batch_cells, config.seed).check_world(0, world)
        except ValueError as error:
            raise ConfigError(f"{section}.batch_cells={stage.batch_cells}: {error}") from None
        if stage.patience and not n_validation:
            raise ConfigError(
                f"{section}.patience={stage.patience} stops by validation cells, and the prepared atlas has "
                f"none. Prepare it with --validation-fraction 0.1, or set {section}.patience=0."
            )


@contextmanager
def _watched(
    directory: RunDirectory, prepared: "Prepared", mlflow_uri: str | None, experiment: str
) -> Iterator[Any]:
    """A Tracker and progress bars that follow the run's metrics for as long as the block runs."""
    from .progress import watch
    from .tracking import Tracker

    document: Mapping[str, Any] = directory.document()
    tracker = Tracker.start(
        directory.path,
        experiment=experiment,
        uri=mlflow_uri,
        config=document["config"],
        dataset={"name": Path(document["data"]).name, "digest": prepared.digest, "uri": document["data"]},
    )
    with tracker, watch(directory.metrics, tracker.log_rows):
        yield tracker
