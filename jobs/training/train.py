"""Training as a job: check, start or resume the run, watch it, register the model."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..config import ConfigError, load_config
from ..device import device_here, training_on
from .adoption import adopt_autoencoder, require_same_autoencoder
from .machines import Machines, checked_machines
from .run_directory import STAGES, RunDirectory, open_run, sole_trainer
from .workers import Workers

if TYPE_CHECKING:
    from cfgen_scale.model_config import ModelConfig
    from cfgen_scale.training.config import TrainConfig
    from loaders.preparation.prepared import Prepared

Stages = Literal["autoencoder", "flow", "all"]


def train(
    stages: Stages,
    *,
    data: Path | str,
    run: Path | str,
    autoencoder_of: Path | str | None = None,
    config_file: Path | str | None = None,
    overrides: Sequence[str] = (),
    workers: Workers | int | str = 1,
    device: str = "auto",
    placement: str | None = None,
    resources: str | Mapping[str, float] | None = None,
    storage: str | None = None,
    cache: Path | str | None = None,
    restarts: int = 3,
    mlflow_uri: str | None = None,
    experiment: str = "cfgen-scale",
    register_as: str | None = None,
    alias: str = "champion",
) -> Path:
    """Train on a prepared atlas; the same call again resumes. Returns the run directory.

    autoencoder_of  another run, on the same cells with the same configuration of the autoencoder: its trained
                  autoencoder is copied, where this run has none yet
    workers       Ray Train workers, or a range such as "1:4": as many as the cluster has room for, now
                  and later. 0 trains in this process without Ray. Under torchrun or accelerate launch that is
                  each of their processes: ``torchrun --nproc-per-node 8 -m -- jobs.cli train ...
                  --workers 0`` (without the ``--`` torchrun takes our --run for its own)
    device        "cuda", "cpu", or "auto": a GPU for each worker where there are enough, else the CPU
    placement     of Ray workers on nodes: pack (together where there is room), spread, strict-pack or
                  strict-spread; None: pack
    resources     that each Ray worker reserves, such as "CPU=8,GPU=1"; None: a CPU and, on GPUs, a GPU
    storage       directory or URI (s3://bucket/runs) for Ray's checkpoints; with it the workers need not see
                  the run directory
    cache         directory of each machine's own disk, for the cells of slow stores: see `Prepared.open`
    restarts      how often Ray may begin again where a worker was lost; -1: always
    register_as   name in the MLflow registry for the model, which gets ``alias``

    Raises ConfigError, RunError and what Prepared.open raises before work starts.
    """
    from loaders.preparation.prepared import Prepared

    data, run = Path(data), Path(run)
    prepared = Prepared.open(data)
    config = load_config(config_file, overrides)
    rank, launched = launched_as()
    workers = Workers.of(workers)
    require_one_launcher(workers.most, launched)
    machines = checked_machines(
        workers,
        device=device,
        placement=placement,
        resources=resources,
        storage=storage,
        cache=cache,
        restarts=restarts,
    )
    check(config, prepared, workers.most or launched)
    names = STAGES if stages == "all" else (stages,)
    if rank:
        # The first process keeps the books and looks what is done: this one waits for it where they meet.
        _train_here(RunDirectory(run), names, launched, machines)
        return run
    if autoencoder_of is not None:
        require_same_autoencoder(Path(autoencoder_of), config, prepared.arrangement)
    _require_order(stages, RunDirectory(run if autoencoder_of is None else Path(autoencoder_of)), register_as)
    directory = open_run(run, config=asdict(config), data=data, data_digest=prepared.arrangement)
    with sole_trainer(directory), _watched(directory, prepared, mlflow_uri, experiment) as tracker:
        if autoencoder_of is not None:
            adopt_autoencoder(directory, Path(autoencoder_of))
        _train_missing(directory, names, launched, machines)
    _record(directory, tracker, register_as, alias)
    return run


def _train_missing(directory: RunDirectory, names: Sequence[str], launched: int, machines: Machines) -> None:
    """Train what is not trained."""
    if trained := directory.trained(names):
        print(f"{directory.path} is already trained.")
    if machines.workers.most and not trained:
        from .ray_training import fit_in_ray

        fit_in_ray(directory, names, machines)
    elif launched > 1 or not trained:
        # Those launched beside this one are told by it, also that nothing is left to do.
        _train_here(directory, names, launched, machines)


def _train_here(directory: RunDirectory, names: Sequence[str], launched: int, machines: Machines) -> None:
    """Train in this process, one of ``launched``."""
    from .worker import train_worker

    device, why = device_here(machines.device)
    if launched_as()[0] == 0 and not directory.trained(names):
        print(training_on(device, why))
    train_worker(directory, names, workers=launched, on_gpu=device == "cuda", cache=machines.cache)


def _record(directory: RunDirectory, tracker: Any, register_as: str | None, alias: str) -> None:
    """Give MLflow the files of the run, and the model where it gets a name."""
    for path in (directory.path / "run.json", directory.metrics, directory.model / "config.json"):
        if path.exists():
            tracker.log_artifact(path, "run")
    if register_as:
        tracker.register(directory.model, register_as, alias)


def launched_as() -> tuple[int, int]:
    """Rank of this process and number of processes, as torchrun or accelerate launch tell them; else 0, 1."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def require_one_launcher(workers: int, launched: int) -> None:
    """Raise ConfigError unless the workers are those of Ray or those of torchrun, not both."""
    if workers and launched > 1:
        raise ConfigError(
            f"{launched} processes were launched and each was told to start {workers} Ray workers. "
            "Give --workers 0 under torchrun or accelerate launch, or run the command by itself."
        )


def _require_order(stages: Stages, directory: RunDirectory, register_as: str | None) -> None:
    if stages == "flow" and not directory.finished("autoencoder"):
        raise ConfigError(
            f"{directory.path} has no trained autoencoder yet. Run `train autoencoder` or `train all` first."
        )
    if stages == "autoencoder" and register_as:
        raise ConfigError(
            f"{register_as!r} cannot be registered by training the autoencoder: the model is whole with its "
            "flow. Register it by `train flow` or `train all`."
        )


def check(config: "TrainConfig", prepared: "Prepared", world: int) -> None:
    """Refuse, before anything starts, a configuration that cannot run here with ``world`` workers."""
    from loaders.streaming.granularity import order_of
    from loaders.streaming.order import Order

    _check_model(config.model, prepared)
    train, n_validation = prepared.rows("train"), len(prepared.rows("validation"))
    of_cells = order_of(
        prepared, train, config.autoencoder.batch_cells, config.seed, granularity=config.granularity
    )
    of_latents = Order(len(train), config.flow.batch_cells, config.seed)
    for section, stage, order in (
        ("autoencoder", config.autoencoder, of_cells),
        ("flow", config.flow, of_latents),
    ):
        lanes = order.n_lanes
        if world > lanes:
            raise ConfigError(
                f"{section}.batch_cells={stage.batch_cells} can be shared by at most {lanes} workers, not "
                f"{world}. {_remedy(stage.batch_cells, world)}"
            )
        if stage.patience and not n_validation:
            raise ConfigError(
                f"{section}.patience={stage.patience} stops by validation cells, and the prepared atlas has "
                f"none. Prepare it with --validation-fraction 0.1, or set {section}.patience=0."
            )


def _check_model(model: "ModelConfig", prepared: "Prepared") -> None:
    """Refuse what the model is to be made of where the prepared atlas does not have it."""
    from cfgen_scale.size_factors import SizeFactors, attributes_of

    statistics, known = prepared.statistics, [c.name for c in prepared.schema.covariates]
    for key, names in (
        ("model.autoencoder.theta_by", attributes_of(model.autoencoder.theta_by)),
        ("model.size_factors_by", attributes_of(model.size_factors_by)),
    ):
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"{key}={name!r} is no label of the prepared atlas. Its labels: {', '.join(known)}."
                )
    kinds = {modality.likelihood for modality in prepared.schema.modalities}
    if model.autoencoder.theta_by and "negative_binomial" not in kinds:
        raise ConfigError(
            f"model.autoencoder.theta_by={model.autoencoder.theta_by!r}: {', '.join(sorted(kinds))} counts "
            "have no theta. Leave it out."
        )
    try:
        model.autoencoder.latent_parts(prepared.schema)
        SizeFactors.fit(statistics.libraries, prepared.schema, model.size_factors_by, statistics.joint_labels)
    except ValueError as error:
        raise ConfigError(f"configuration of the model: {error}") from None


def _remedy(batch_cells: int, world: int) -> str:
    from loaders.streaming.order import MOST_LANES

    if world > MOST_LANES:
        return f"No batch is shared by more than {MOST_LANES}."
    return f"Use fewer workers, or a multiple of {world} such as {-(-batch_cells // world) * world}."


@contextmanager
def _watched(
    directory: RunDirectory, prepared: "Prepared", mlflow_uri: str | None, experiment: str
) -> Iterator[Any]:
    """A Tracker and progress bars that follow the run's metrics for as long as the block runs."""
    from ..tracking import Tracker
    from .progress import watch

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
