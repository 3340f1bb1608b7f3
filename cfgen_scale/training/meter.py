"""What is measured between two rows of metrics: loss, rate, waiting for data."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator


class Meter:
    """Mean loss and rate between two reports; the sums over workers are taken when asked."""

    def __init__(self, accelerator: "Accelerator", waited: Callable[[], float]) -> None:
        self.accelerator, self.waited = accelerator, waited
        self.restart()

    def restart(self) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        self.cells, self.began, self.waited_before = 0, time.monotonic(), self.waited()

    def add(self, loss_sum: torch.Tensor, global_cells: int) -> None:
        self.loss += loss_sum.detach().double()
        self.cells += global_cells

    def read(self) -> dict[str, float]:
        """Loss per cell over all workers, cells/s, share of the time that the worker who waited longest for
        data has waited (all others wait for it); restarts."""
        waited = torch.tensor(self.waited() - self.waited_before, device=self.accelerator.device)
        mine = torch.stack([self.loss.float(), waited.float()])
        of_workers = self.accelerator.gather(mine).view(-1, 2)
        total, longest = float(of_workers[:, 0].sum()), float(of_workers[:, 1].max())
        seconds = max(time.monotonic() - self.began, 1e-9)
        row = {
            "loss": total / max(self.cells, 1),
            "cells_per_second": self.cells / seconds,
            "data_wait_share": longest / seconds,
        }
        self.restart()
        return row
