"""Where a stage stands, on disk: directories of safetensors and JSON, renamed when complete."""

import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from ..files import read_json, write_directory, write_json
from .optimisation import AveragedWeights

KEPT = 2
STATE_FILE = "state.json"
Tensors = dict[str, torch.Tensor]


@dataclass
class TrainState:
    """The position of a stage: everything that is not a tensor.

    cells_seen        cells seen by all workers together
    best_loss         lowest validation loss so far, at ``best_cells_seen``
    without_better    validations since
    stopped           the stage ended before its budget, by patience
    threads           intra-op threads: with the world size, what bitwise equality on resume needs
    """

    cells_seen: int = 0
    best_loss: float | None = None
    best_cells_seen: int = 0
    without_better: int = 0
    stopped: bool = False
    threads: int = 0
    world_size: int = 1


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


def save_checkpoint(
    directory: Path,
    state: TrainState,
    *,
    network: nn.Module,
    averaged: AveragedWeights,
    optimiser: torch.optim.Optimizer,
    best: Tensors | None,
) -> Path:
    """Write ``directory/<cells_seen>``, then remove all but the newest two."""
    from safetensors.torch import save_file

    path = directory / f"{state.cells_seen:015d}"
    with write_directory(path) as aside:
        save_file(
            {n: p.detach().contiguous() for n, p in network.named_parameters()}, aside / "network.safetensors"
        )
        save_file(averaged.weights, aside / "averaged.safetensors")
        save_file(optimiser_tensors(optimiser), aside / "optimiser.safetensors")
        if best is not None:
            save_file(best, aside / "best.safetensors")
        write_json(aside / STATE_FILE, asdict(state))
    for old in checkpoints(directory)[:-KEPT]:
        shutil.rmtree(old)
    return path


def load_checkpoint(
    path: Path, *, network: nn.Module, averaged: AveragedWeights, optimiser: torch.optim.Optimizer
) -> tuple[TrainState, Tensors | None]:
    """Restore the three in place; returns the state and the best weights, if kept."""
    from safetensors.torch import load_file

    set_weights(network, load_file(path / "network.safetensors"))
    for name, tensor in load_file(path / "averaged.safetensors").items():
        averaged.weights[name].copy_(tensor)
    load_optimiser(optimiser, load_file(path / "optimiser.safetensors"))
    best = path / "best.safetensors"
    return TrainState(**read_json(path / STATE_FILE)), load_file(best) if best.exists() else None


@torch.no_grad()
def set_weights(network: nn.Module, weights: Tensors) -> None:
    """Copy ``weights`` into the parameters of the same names."""
    for name, parameter in network.named_parameters():
        parameter.copy_(weights[name])
