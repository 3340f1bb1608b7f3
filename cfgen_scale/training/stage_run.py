"""A stage under way on one worker: its network, optimiser, averaged weights and position."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..types import IntArray
from .checkpoint import (
    Guard,
    Snapshot,
    Tensors,
    TrainState,
    checkpoints,
    load_state,
    load_tensors,
    save_checkpoint,
    set_weights,
)
from .gradients import add_gradients
from .optimisation import AveragedWeights, learning_rate, make_optimiser, set_learning_rate
from .resuming import circumstances, require_same_run, what_is_kept
from .stages import Stage
from .writing import CheckpointWriter

if TYPE_CHECKING:
    from accelerate import Accelerator


class NonFiniteLossError(ValueError):
    """The loss or its gradient is NaN or infinite; raised before the weights are touched."""


@dataclass(frozen=True)
class Cells:
    """Where a stage's batches come from.

    training     cells_seen -> this worker's batches from there on, epoch after epoch
    validation   () -> this worker's share of the validation cells, once; empty if there are none
    n_training   training cells in all
    waited       () -> seconds the consumer has waited for data so far
    order        digest of the sequence of training cells: a run goes on with no other
    """

    training: Callable[[int], Iterator[Any]]
    validation: Callable[[], Iterable[Any]]
    n_training: int
    has_validation: bool
    waited: Callable[[], float]
    order: str


@torch.no_grad()
def validate(
    stage: Stage[Any], cells: Cells, accelerator: "Accelerator", weights: Tensors, seed: int
) -> float:
    """Mean loss per validation cell under ``weights``, equal on every worker; the network is unchanged."""
    network = stage.network
    trained = {name: p.detach().clone() for name, p in network.named_parameters()}
    set_weights(network, weights)
    network.eval()
    sums = torch.zeros(2, device=accelerator.device)
    for batch in cells.validation():
        losses = stage.losses(network, batch, purpose="validation", seed=seed)
        sums += torch.stack([losses.sum(), torch.tensor(float(len(losses)), device=losses.device)])
    set_weights(network, trained)
    network.train()
    total = accelerator.reduce(sums, reduction="sum")
    return float(total[0] / total[1])


def named_rows(rows: IntArray, most: int = 5) -> str:
    """``rows [3, 17]``, or the first few and how many they are, of the prepared atlas."""
    behind = f" and {len(rows) - most:,} more" if len(rows) > most else ""
    return f"rows {rows[:most].tolist()}{behind}"


class StageRun:
    """One stage under way: network, optimiser, averaged weights, best weights, position."""

    def __init__(
        self,
        stage: Stage[Any],
        cells: Cells,
        accelerator: "Accelerator",
        *,
        directory: Path,
        seed: int,
        data: Mapping[str, str],
        versions: Mapping[str, str],
    ) -> None:
        self.stage, self.cells, self.accelerator, self.seed = stage, cells, accelerator, seed
        self.config, self.directory = stage.config, directory
        stage.network.to(accelerator.device).train()
        self.averaged = AveragedWeights(stage.network, self.config.ema_half_life_cells)
        self.best: Tensors | None = None
        self.network, self.optimiser = accelerator.prepare(
            stage.network, make_optimiser(stage.network, self.config)
        )
        made_of = {
            "seed": seed,
            "configuration": asdict(self.config),
            "network": asdict(stage.network_config),
            "order of cells": cells.order,
            **data,
        }
        self.state = TrainState(
            # As a checkpoint has it: a tuple is a list.
            made_of=json.loads(json.dumps(made_of)),
            circumstances=circumstances(accelerator),
            versions=dict(versions),
        )
        self.note = self.restore()

    def restore(self) -> str | None:
        """Continue from the newest checkpoint that the first worker sees, if there is one; returns what a
        resume under other circumstances does not keep."""
        now, position = self.state, self.newest()
        if position < 0:
            return None
        path = self.directory / f"{position:015d}"
        state = load_state(path)
        require_same_run(state.made_of, now.made_of, str(path))
        self.best = load_tensors(
            path, network=self.stage.network, averaged=self.averaged, optimiser=self.optimiser.optimizer
        )
        self.state = state
        note = what_is_kept(self.state.circumstances, now.circumstances)
        self.state.circumstances, self.state.versions = now.circumstances, now.versions
        return note

    def newest(self) -> int:
        """Position of the newest checkpoint, -1 if there is none: what the first worker sees, on all of them
        (a shared file system may show it to the others later)."""
        from accelerate.utils import broadcast

        found = [int(path.name) for path in checkpoints(self.directory)] or [-1]
        return int(broadcast(torch.tensor(found[-1], device=self.accelerator.device)))

    @property
    def finished(self) -> bool:
        return self.state.stopped or self.state.cells_seen >= self.config.cells

    def step(self, batch: Any) -> tuple[torch.Tensor, float]:
        """One update; returns the summed loss of this worker's cells and the gradient's norm."""
        set_learning_rate(self.optimiser, learning_rate(self.config, batch.cells_seen))
        total = add_gradients(
            self.stage,
            self.network,
            batch,
            self.accelerator,
            seed=self.seed,
            require_finite=self.require_finite,
        )
        norm = float(self.accelerator.clip_grad_norm_(self.network.parameters(), self.config.clip_norm))
        if not math.isfinite(norm):
            raise self.not_finite(f"the gradient of the batch with {named_rows(batch.rows)}")
        self.optimiser.step()
        self.optimiser.zero_grad()
        before, self.state.cells_seen = self.state.cells_seen, batch.cells_seen
        self.averaged.update(
            self.stage.network.named_parameters(), batch.cells_seen - before, batch.cells_seen
        )
        return total, norm

    def require_finite(self, losses: torch.Tensor, batch: Any) -> None:
        """Raise NonFiniteLossError naming the first cells at fault: before any worker changes its weights."""
        finite = torch.isfinite(losses)
        if not finite.all():
            raise self.not_finite(f"the loss of {named_rows(batch.rows[(~finite).cpu().numpy()])}")

    def not_finite(self, what: str) -> NonFiniteLossError:
        return NonFiniteLossError(
            f"{self.stage.name}: {what} is not finite after {self.state.cells_seen:,} cells. The weights are "
            f"unchanged. Lower {self.stage.name}.learning_rate, or look at the counts of the cells."
        )

    def judge(self) -> float:
        """Validate the averaged weights; remember them if best; stop when patience is out."""
        loss = validate(self.stage, self.cells, self.accelerator, self.averaged.weights, self.seed)
        if not math.isfinite(loss):
            raise self.not_finite("the validation loss")
        if self.state.best_loss is None or loss < self.state.best_loss:
            self.state.best_loss, self.state.best_cells_seen = loss, self.state.cells_seen
            self.state.without_better = 0
            if self.config.patience:
                self.best = {name: tensor.clone() for name, tensor in self.averaged.weights.items()}
        else:
            self.state.without_better += 1
            self.state.stopped = 0 < self.config.patience <= self.state.without_better
        return loss

    def save(self, writer: CheckpointWriter, guard: Guard) -> Future[Path] | None:
        """Begin to write a checkpoint, on the first worker; nobody waits for it."""
        if not self.accelerator.is_main_process:
            return None
        snapshot = Snapshot.of(
            self.state,
            network=self.stage.network,
            averaged=self.averaged,
            optimiser=self.optimiser.optimizer,
            best=self.best,
        )
        return writer.write(partial(save_checkpoint, self.directory, snapshot, guard=guard))

    def result(self) -> Tensors:
        """What the stage ends with: the best validated weights with patience, else the last average."""
        return self.best if self.best is not None else self.averaged.weights
