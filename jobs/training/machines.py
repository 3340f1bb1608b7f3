"""What trains: how many workers, what each has, where it is, and where Ray keeps their checkpoints."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..cluster import cluster
from ..config import ConfigError
from ..device import device_for, device_here, device_in_cluster
from .workers import Workers

# Ray's words for how workers lie on nodes: together where there is room, or apart; strictly: or not at all.
PLACEMENTS = ("pack", "spread", "strict-pack", "strict-spread")


@dataclass(frozen=True)
class Machines:
    """The workers of a run and what they work on; all but ``device`` and ``cache`` is of Ray workers.

    device      "auto", "cpu" or "cuda"
    placement   one of PLACEMENTS
    resources   that each worker reserves, other than a CPU and, on GPUs, a GPU
    storage     directory or URI of Ray's checkpoints; None: the run directory, which all workers share
    cache       directory of each machine's own disk, for the cells of slow stores
    restarts    how often Ray may begin again where a worker was lost; -1: always
    """

    workers: Workers
    device: str = "auto"
    placement: str = "pack"
    resources: Mapping[str, float] = field(default_factory=dict)
    storage: str | None = None
    cache: str | None = None
    restarts: int = 3

    @property
    def gpus_needed(self) -> float:
        """GPUs of the fewest workers."""
        return self.workers.least * self.resources.get("GPU", 1.0)

    @property
    def slots(self) -> int:
        """CPUs, as Ray counts them, that the most workers need."""
        return math.ceil(self.workers.most * max(1.0, self.resources.get("CPU", 1.0)))


def checked_machines(
    workers: Workers,
    *,
    device: str,
    placement: str | None,
    resources: str | Mapping[str, float] | None,
    storage: str | None,
    cache: Path | str | None,
    restarts: int,
) -> Machines:
    """Machines as they are told on the command line. Raises ConfigError for what cannot be."""
    if not workers.most and (placement or resources or storage):
        raise ConfigError(
            "--placement, --resources and --storage are of Ray workers: give --workers 1 or more with them."
        )
    if placement is not None and placement not in PLACEMENTS:
        raise ConfigError(f"placement must be {', '.join(PLACEMENTS)}, not {placement!r}.")
    if restarts < -1:
        raise ConfigError(f"restarts must be 0 or more, or -1 for always, not {restarts}.")
    machines = Machines(
        workers,
        device,
        placement or "pack",
        resources_of(resources),
        checked_storage(storage),
        None if cache is None else str(Path(cache).absolute()),
        restarts,
    )
    _require_device(machines)
    return machines


def resources_of(told: str | Mapping[str, float] | None) -> dict[str, float]:
    """``CPU=4,GPU=0.5,memory=64e9`` as a mapping. Raises ConfigError for anything else."""
    if told is None or isinstance(told, Mapping):
        return dict(told or {})
    parts = [re.fullmatch(r"\s*([\w.-]+)=(\d+(?:\.\d+)?(?:e\d+)?)\s*", part) for part in told.split(",")]
    if not all(parts):
        raise ConfigError(f"--resources must be as in CPU=4,GPU=1,memory=64e9, not {told!r}.")
    return {part[1]: float(part[2]) for part in parts if part}


def checked_storage(storage: str | None) -> str | None:
    """``storage`` as Ray takes it: a URI, or an absolute path. Raises ConfigError where it cannot be."""
    if storage is None:
        return None
    import pyarrow
    from pyarrow.fs import FileSystem

    storage = storage if "://" in storage else str(Path(storage).resolve())
    try:
        FileSystem.from_uri(storage)
    except (pyarrow.ArrowException, ValueError) as error:
        raise ConfigError(f"--storage {storage} is no directory or URI that can be opened: {error}") from None
    return storage


def _require_device(machines: Machines) -> None:
    """Raise ConfigError, before anything is begun, for a device that is not there."""
    import torch

    if not machines.workers.most:
        device_here(machines.device)
    elif machines.device == "cuda" and _cluster_is_elsewhere():
        with cluster(machines.slots):
            device_in_cluster(machines.device, machines.gpus_needed)
    else:
        # A local cluster will have the GPUs of this machine.
        gpus = torch.cuda.device_count()
        device_for(machines.device, gpus=gpus, needed=machines.gpus_needed, where="this machine")


def _cluster_is_elsewhere() -> bool:
    import ray

    return bool(ray.is_initialized() or os.environ.get("RAY_ADDRESS"))
