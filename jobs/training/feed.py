"""Where each stage's batches come from: streams of cells, or latents held in memory."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from cfgen_scale.model import CFGen
from cfgen_scale.training.config import TrainConfig
from cfgen_scale.training.stage_run import Cells
from cfgen_scale.training.stages import LatentBatch
from cfgen_scale.types import CellBatch, Condition, IntArray
from loaders.preparation.prepared import Prepared
from loaders.streaming.granularity import order_of
from loaders.streaming.order import Order
from loaders.streaming.stream import CellStream, in_order

from .encode import AtlasLatents

if TYPE_CHECKING:
    from accelerate import Accelerator

VALIDATION_BATCH = 512


def autoencoder_cells(prepared: Prepared, config: TrainConfig, accelerator: "Accelerator") -> Cells:
    """Batches of counts, read ahead from the prepared atlas."""
    rank, world = accelerator.process_index, accelerator.num_processes
    streams: list[CellStream] = []
    rows = prepared.rows("train")
    order = order_of(
        prepared, rows, config.autoencoder.batch_cells, config.seed, granularity=config.granularity
    )

    def training(cells_seen: int) -> Iterator[CellBatch]:
        stream = CellStream(
            prepared,
            split="train",
            batch_cells=config.autoencoder.batch_cells,
            seed=config.seed,
            granularity=config.granularity,
            rank=rank,
            world=world,
            cells_seen=cells_seen,
        )
        streams.append(stream)
        return iter(stream)

    def validation() -> Iterator[CellBatch]:
        most = config.autoencoder.validation_cells
        return in_order(prepared, "validation", VALIDATION_BATCH, rank=rank, world=world, most=most)

    return Cells(
        training,
        validation,
        n_training=len(rows),
        has_validation=len(prepared.rows("validation")) > 0 and config.autoencoder.validation_cells > 0,
        waited=lambda: sum(stream.wait_seconds for stream in streams),
        order=order.digest,
    )


def flow_cells(
    latents: AtlasLatents, model: CFGen, prepared: Prepared, config: TrainConfig, accelerator: "Accelerator"
) -> Cells:
    """Global batches of what the flow moves, all held in memory; each worker trains on its own positions."""
    rank, world, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    train = _resident(prepared, "train", model, latents.training, device)
    held_out = _resident(prepared, "validation", model, latents.validation, device)
    # Latents lie in memory, where random rows cost nothing.
    order = Order(len(train), config.flow.batch_cells, config.seed)
    clock = WaitClock()

    def validation() -> Iterator[LatentBatch]:
        n = min(len(held_out), config.flow.validation_cells)
        # At even distances: the first ones of an atlas may all be of one donor.
        chosen = np.arange(n) * len(held_out) // max(n, 1)
        for first in range(0, n, VALIDATION_BATCH):
            places = chosen[first : first + VALIDATION_BATCH]
            yield held_out.batch(places, np.arange(rank, len(places), world), first)

    return Cells(
        lambda cells_seen: clock.timed(train.batches(order, cells_seen, rank=rank, world=world)),
        validation,
        n_training=len(train),
        has_validation=len(held_out) > 0 and config.flow.validation_cells > 0,
        waited=lambda: clock.seconds,
        order=order.digest,
    )


class WaitClock:
    """Seconds that whoever consumes an iterator has waited for its items: here, what it took the training
    thread to draw the order and to gather latents (on a GPU, to ask for them to be gathered). For 8,192 cells
    that is 2.8 ms of a step of 487 (one thread of an AMD EPYC): reading ahead would have nothing to hide."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed[T](self, items: Iterator[T]) -> Iterator[T]:
        while True:
            began = time.monotonic()
            item = next(items, None)
            self.seconds += time.monotonic() - began
            if item is None:
                return
            yield item


@dataclass(frozen=True)
class ResidentLatents:
    """What the flow moves of one split (n, D + S) with its conditions, in the memory of the device, and the
    rows (n,) of the cells in the prepared atlas."""

    latent: torch.Tensor
    condition: Condition = field(repr=False)
    rows: IntArray = field(repr=False)

    def __len__(self) -> int:
        return len(self.latent)

    def batches(self, order: Order, cells_seen: int, *, rank: int, world: int) -> Iterator[LatentBatch]:
        """Global batches from ``cells_seen`` on, with the positions of this worker's cells."""
        while True:
            whole = order.batch(cells_seen)
            mine = whole if world == 1 else order.batch(cells_seen, rank=rank, world=world)
            cells_seen = whole.cells_seen_after
            # The places of the whole batch lie in the order of its positions.
            yield self.batch(whole.places, mine.positions, cells_seen)

    def batch(self, places: IntArray, positions: IntArray, cells_seen: int) -> LatentBatch:
        device = self.latent.device
        chosen = torch.from_numpy(places).to(device)
        condition = Condition(self.condition.labels[chosen], self.condition.log_size_factor[chosen])
        mine = torch.from_numpy(positions).to(device)
        return LatentBatch(self.latent[chosen], condition, mine, self.rows[places[positions]], cells_seen)


def log_sizes(prepared: Prepared, split: str) -> torch.Tensor:
    """Logarithms of the library sizes (n, S) float32 of the cells of a split."""
    return torch.from_numpy(np.log(prepared.totals(prepared.rows(split))).astype(np.float32))


def _resident(
    prepared: Prepared, split: str, model: CFGen, latent: torch.Tensor, device: torch.device
) -> ResidentLatents:
    rows = prepared.rows(split)
    labels = torch.from_numpy(prepared.labels(rows)).to(device)
    white, log_l = model.whitening.whiten(latent).to(device), log_sizes(prepared, split).to(device)
    return ResidentLatents(model.sizes_beside.join(white, log_l), Condition(labels, log_l), rows)
