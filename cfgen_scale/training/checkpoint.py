"""Where a stage stands, on disk: directories of safetensors and JSON, renamed when complete."""

import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..files import flush, read_json, write_directory, write_json
from .optimisation import AveragedWeights
from .resuming import Circumstances

KEPT = 2
STATE_FILE = "state.json"
Tensors = dict[str, torch.Tensor]
# Called before anything in a directory of checkpoints changes; raises where another trainer owns it now.
Guard = Callable[[], None]


def nothing() -> None:
    """The guard of a directory that nobody else writes to."""


@dataclass
class TrainState:
    """The position of a stage: everything that is not a tensor.

    cells_seen        cells seen by all workers together; with the seed, the key of every random draw
    best_loss         lowest validation loss so far, at ``best_cells_seen``
    without_better    validations since
    stopped           the stage ended before its budget, by patience
    made_of           seed, configuration of the stage and of its network, and digests of what it is trained
                      on: of another run's checkpoint nothing is resumed
    circumstances     of the training that wrote it: what the rounding depends on
    versions          of the packages that wrote it
    """

    cells_seen: int = 0
    best_loss: float | None = None
    best_cells_seen: int = 0
    without_better: int = 0
    stopped: bool = False
    made_of: dict[str, Any] = field(default_factory=dict)
    circumstances: Circumstances = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """A stage at one moment, in memory of its own: training may go on while it is written."""

    state: dict[str, Any]
    network: Tensors
    averaged: Tensors
    optimiser: Tensors
    best: Tensors | None

    @staticmethod
    def of(
        state: TrainState,
        *,
        network: nn.Module,
        averaged: AveragedWeights,
        optimiser: torch.optim.Optimizer,
        best: Tensors | None,
    ) -> "Snapshot":
        """Copy everything that changes; ``best`` is replaced as a whole when it changes."""
        return Snapshot(
            asdict(state),
            _copied(dict(network.named_parameters())),
            _copied(averaged.weights),
            _copied(optimiser_tensors(optimiser)),
            best,
        )


def _copied(tensors: Tensors) -> Tensors:
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> Tensors:
    """The optimiser's state as a flat dict of tensors, named by parameter index and key."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{key}": value for index, entry in state.items() for key, value in entry.items()}


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put back what ``optimiser_tensors`` gave; the parameter groups are those of the new optimiser."""
    state: dict[int, Tensors] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def checkpoints(directory: Path) -> list[Path]:
    """The complete checkpoints of a stage, oldest first."""
    found = [p for p in directory.glob("[0-9]*") if (p / STATE_FILE).is_file()] if directory.exists() else []
    return sorted(p for p in found if re.fullmatch(r"\d{15}", p.name))


def save_checkpoint(directory: Path, snapshot: Snapshot, *, guard: Guard = nothing) -> Path:
    """Write ``directory/<cells_seen>`` aside, flush it, rename it if ``guard`` lets it; then remove those
    before it but one.

    What lies ahead is left: a trainer that has died may have come further after this one began, and this one
    will come to those places again.
    """
    from safetensors.torch import save_file

    path = directory / f"{snapshot.state['cells_seen']:015d}"
    with write_directory(path) as aside:
        save_file(snapshot.network, aside / "network.safetensors")
        save_file(snapshot.averaged, aside / "averaged.safetensors")
        save_file(snapshot.optimiser, aside / "optimiser.safetensors")
        if snapshot.best is not None:
            save_file(snapshot.best, aside / "best.safetensors")
        write_json(aside / STATE_FILE, snapshot.state)
        for written in (*aside.iterdir(), aside):
            flush(written)
        guard()
    flush(directory)
    before = [old for old in checkpoints(directory) if old.name < path.name]
    for old in before[: 1 - KEPT]:
        shutil.rmtree(old)
    return path


def load_state(path: Path) -> TrainState:
    """The position of the checkpoint at ``path``, to be looked at before its tensors are taken."""
    return TrainState(**read_json(path / STATE_FILE))


def load_tensors(
    path: Path, *, network: nn.Module, averaged: AveragedWeights, optimiser: torch.optim.Optimizer
) -> Tensors | None:
    """Restore the three in place; returns the best weights, if kept."""
    from safetensors.torch import load_file

    set_weights(network, load_file(path / "network.safetensors"))
    for name, tensor in load_file(path / "averaged.safetensors").items():
        averaged.weights[name].copy_(tensor)
    load_optimiser(optimiser, load_file(path / "optimiser.safetensors"))
    best = path / "best.safetensors"
    return load_file(best) if best.exists() else None


@torch.no_grad()
def set_weights(network: nn.Module, weights: Tensors) -> None:
    """Copy ``weights`` into the parameters of the same names."""
    for name, parameter in network.named_parameters():
        parameter.copy_(weights[name])
