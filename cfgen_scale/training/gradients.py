"""The gradient of the mean loss over a global batch, summed over parts where a worker's share is large."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .stages import Stage

if TYPE_CHECKING:
    from accelerate import Accelerator


def add_gradients(
    stage: Stage[Any],
    network: nn.Module,
    batch: Any,
    accelerator: "Accelerator",
    *,
    seed: int,
    require_finite: Callable[[torch.Tensor, Any], None],
) -> torch.Tensor:
    """Add to the gradients those of ``batch``; returns the summed loss of this worker's cells, detached.

    No more than ``stage.config.cells_at_once`` cells are in the network at a time. Workers may have different
    numbers of parts: they meet in the last one of each. ``require_finite`` is given the losses and the cells
    of every part before it is followed backwards.
    """
    parts = stage.parts(batch)
    total = torch.zeros((), device=accelerator.device)
    for part in parts:
        alone = part is not parts[-1]
        with accelerator.no_sync(network) if alone else nullcontext():
            with accelerator.autocast():
                losses = stage.losses(network, part, purpose="training", seed=seed)
            require_finite(losses, part)
            of_part = losses.sum()
            # DDP takes the mean over workers; shares of a global batch may be unequal.
            accelerator.backward(of_part * (accelerator.num_processes / batch.global_cells))
        total += of_part.detach()
    return total
