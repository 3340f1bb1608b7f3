"""The one loop that trains both stages, on any number of workers.

Every worker runs it in step. What it does depends on (seed, cells_seen), so running it again continues
where the newest checkpoint stands.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .checkpoint import (
    Tensors,
    TrainState,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
    set_weights,
)
from .gradients import add_gradients
from .meter import Meter
from .optimisation import AveragedWeights, learning_rate, make_optimiser, set_learning_rate
from .stages import Stage

if TYPE_CHECKING:
    from accelerate import Accelerator

Report = Callable[[dict[str, Any]], None]


class NonFiniteLossError(ValueError):
    """The loss or its gradient is NaN or infinite; raised before the weights are touched."""


@dataclass(frozen=True)
class Cells:
    """Where a stage's batches come from.

    training     cells_seen -> this worker's batches from there on, epoch after epoch
    validation   () -> this worker's share of the validation cells, once; empty if there are none
    n_training   training cells in all
    waited       () -> seconds the consumer has waited for data so far
    """

    training: Callable[[int], Iterator[Any]]
    validation: Callable[[], Iterable[Any]]
    n_training: int
    has_validation: bool
    waited: Callable[[], float]


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


def crossed(before: int, after: int, interval: int) -> bool:
    """Whether a multiple of ``interval`` lies in (before, after]."""
    return after // interval > before // interval


class StageRun:
    """One stage under way: network, optimiser, averaged weights, best weights, position."""

    def __init__(
        self, stage: Stage[Any], cells: Cells, accelerator: "Accelerator", *, directory: Path, seed: int
    ) -> None:
        self.stage, self.cells, self.accelerator, self.seed = stage, cells, accelerator, seed
        self.config, self.directory = stage.config, directory
        stage.network.to(accelerator.device).train()
        self.averaged = AveragedWeights(stage.network, self.config.ema_half_life_cells)
        self.best: Tensors | None = None
        self.network, self.optimiser = accelerator.prepare(
            stage.network, make_optimiser(stage.network, self.config)
        )
        self.state = TrainState(threads=torch.get_num_threads(), world_size=accelerator.num_processes)
        self.restore()

    def restore(self) -> None:
        """Continue from the newest checkpoint, if there is one."""
        found = checkpoints(self.directory)
        if not found:
            return
        self.state, self.best = load_checkpoint(
            found[-1],
            network=self.stage.network,
            averaged=self.averaged,
            optimiser=self.optimiser.optimizer,
        )
        self.state.world_size = self.accelerator.num_processes
        self.state.threads = torch.get_num_threads()

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
            raise self.not_finite("the gradient")
        self.optimiser.step()
        self.optimiser.zero_grad()
        before, self.state.cells_seen = self.state.cells_seen, batch.cells_seen
        self.averaged.update(
            self.stage.network.named_parameters(), batch.cells_seen - before, batch.cells_seen
        )
        return total, norm

    def require_finite(self, losses: torch.Tensor, batch: Any) -> None:
        """Raise NonFiniteLossError naming the first cells at fault: before any worker changes its weights."""
        if not torch.isfinite(losses).all():
            bad = torch.nonzero(~torch.isfinite(losses)).flatten()[:5].tolist()
            rows = getattr(batch, "rows", None)
            where = f"rows {rows[bad].tolist()}" if rows is not None else f"places {bad} of the batch"
            raise self.not_finite(f"the loss of {where}")

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

    def save(self) -> None:
        """Checkpoint, written by the first worker while the others wait."""
        if self.accelerator.is_main_process:
            save_checkpoint(
                self.directory,
                self.state,
                network=self.stage.network,
                averaged=self.averaged,
                optimiser=self.optimiser.optimizer,
                best=self.best,
            )
        self.accelerator.wait_for_everyone()

    def result(self) -> Tensors:
        """What the stage ends with: the best validated weights with patience, else the last average."""
        return self.best if self.best is not None else self.averaged.weights


def run_stage(
    stage: Stage[Any],
    cells: Cells,
    accelerator: "Accelerator",
    *,
    directory: Path,
    seed: int,
    report: Report,
    saved: Callable[[Mapping[str, Any]], None] | None = None,
) -> Tensors:
    """Train ``stage`` to the end of its budget, or until patience stops it; returns its weights.

    ``directory`` keeps the checkpoints; ``report`` is called on the first worker with a row of metrics
    every ``report_interval`` cells and after each validation; ``saved`` on every worker after each
    checkpoint, with the stage, its position and the checkpoint's path. Raises NonFiniteLossError.
    """
    run = StageRun(stage, cells, accelerator, directory=directory, seed=seed)
    validate_every = run.config.validation_interval(cells.n_training)
    report_every = run.config.report_interval()
    meter = Meter(accelerator, cells.waited)
    for batch in cells.training(run.state.cells_seen) if not run.finished else ():
        before = run.state.cells_seen
        total, norm = run.step(batch)
        after = run.state.cells_seen
        meter.add(total, batch.global_cells)
        row: dict[str, Any] = {}
        done = after >= run.config.cells
        if done or crossed(before, after, report_every):
            row = {**meter.read(), "gradient_norm": norm}
        if cells.has_validation and (done or crossed(before, after, validate_every)):
            row = row or {**meter.read(), "gradient_norm": norm}
            row["validation_loss"] = run.judge()
            meter.restart()
        if row and accelerator.is_main_process:
            place = {"stage": stage.name, "cells_seen": after, "cells_total": run.config.cells}
            report({**place, "learning_rate": learning_rate(run.config, after), **row})
        if run.finished or crossed(before, after, run.config.checkpoint_interval()):
            run.save()
            if saved is not None:
                path = str(checkpoints(directory)[-1])
                saved({"stage": stage.name, "cells_seen": after, "checkpoint": path})
            meter.restart()
        if run.finished:
            break
    return run.result()


def initialised(network: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network whose initial weights depend on ``seed`` alone; torch's own stream is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network()
