"""The one loop that trains both stages, on any number of workers.

Every worker runs it in step. What it does depends on (seed, cells_seen), so running it again continues
where the newest checkpoint stands.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .checkpoint import Guard, Tensors, nothing
from .meter import Meter
from .optimisation import learning_rate
from .stage_run import Cells, StageRun
from .stages import Stage
from .writing import CheckpointWriter

if TYPE_CHECKING:
    from accelerate import Accelerator

Report = Callable[[dict[str, Any]], None]
# Told of a checkpoint on every worker: its place, and on the one that writes it its path when it is complete.
Saved = Callable[[dict[str, Any], Future[Path] | None], None]


def run_stage(
    stage: Stage[Any],
    cells: Cells,
    accelerator: "Accelerator",
    *,
    directory: Path,
    seed: int,
    report: Report,
    saved: Saved | None = None,
    guard: Guard = nothing,
    data: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
) -> Tensors:
    """Train ``stage`` to the end of its budget, or until patience stops it; returns its weights.

    ``directory`` keeps the checkpoints, each if ``guard`` lets it, with ``data``, the digests of what is
    trained on, and ``versions``; ``report`` is called on the first worker with a row of metrics every
    ``report_interval`` cells and after each validation, and with a note where a resume does not keep the
    bits. When it returns, all checkpoints are complete. Raises NonFiniteLossError, and ValueError for a
    checkpoint of another run.
    """
    run = StageRun(
        stage, cells, accelerator, directory=directory, seed=seed, data=data or {}, versions=versions or {}
    )
    tell = _teller(run, report)
    if run.note:
        place = run.state.circumstances
        tell({"workers": place["workers"], "threads": place["threads"], "note": run.note})
    with CheckpointWriter() as writer:
        _train(run, writer, tell, saved, guard)
    return run.result()


def _train(run: StageRun, writer: CheckpointWriter, tell: Report, saved: Saved | None, guard: Guard) -> None:
    validate_every = run.config.validation_interval(run.cells.n_training)
    report_every, save_every = run.config.report_interval(), run.config.checkpoint_interval()
    meter = Meter(run.accelerator, run.cells.waited)
    for batch in run.cells.training(run.state.cells_seen) if not run.finished else ():
        before = run.state.cells_seen
        total, norm = run.step(batch)
        after = run.state.cells_seen
        meter.add(total, batch.global_cells)
        row: dict[str, Any] = {}
        done = after >= run.config.cells
        validating = run.cells.has_validation and (done or crossed(before, after, validate_every))
        if done or validating or crossed(before, after, report_every):
            row = {"learning_rate": learning_rate(run.config, after), **meter.read(), "gradient_norm": norm}
        if validating:
            row["validation_loss"] = run.judge()
        if row:
            tell(row)
        if run.finished or crossed(before, after, save_every):
            written = run.save(writer, guard)
            if saved is not None:
                saved({"stage": run.stage.name, "cells_seen": after}, written)
        if validating or run.finished or crossed(before, after, save_every):
            meter.restart()
        if run.finished:
            break


def _teller(run: StageRun, report: Report) -> Report:
    """``report`` on the first worker, of rows that say where the stage stands."""

    def tell(row: dict[str, Any]) -> None:
        if run.accelerator.is_main_process:
            place = {"stage": run.stage.name, "cells_seen": run.state.cells_seen}
            report({**place, "cells_total": run.config.cells, **row})

    return tell


def crossed(before: int, after: int, interval: int) -> bool:
    """Whether a multiple of ``interval`` lies in (before, after]."""
    return after // interval > before // interval


def initialised(network: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network whose initial weights depend on ``seed`` alone; torch's own stream is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network()
