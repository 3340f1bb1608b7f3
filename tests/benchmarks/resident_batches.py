"""Batches that already lie in memory, so that training is measured and not reading.

Counts lie on the host in narrow dtypes, pinned where there is a GPU, and are copied there on a stream of
their own, each batch while the one before is trained on. Latents lie where they are trained on, as in a run.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from torch import nn

from cfgen_scale.counts import SparseCounts
from cfgen_scale.training import AutoencoderStage, LatentBatch
from cfgen_scale.types import CellBatch, Condition, IntArray
from jobs.training.feed import ResidentLatents
from loaders.streaming.order import Order
from tests.benchmarks.simulated_atlas import SimulatedAtlas


def host_batches(cells: int, genes: int, batch: int) -> list[CellBatch]:
    """Whole batches of the simulated atlas' first genes, its cells shuffled; counts uint8 or uint16."""
    slabs = list(SimulatedAtlas(cells).slabs())
    counts = vstack([slab.counts[:, :genes] for slab in slabs], format="csr")
    counts = counts.astype(np.uint8 if counts.data.max() < 256 else np.uint16)
    types = np.concatenate([slab.types for slab in slabs]).astype(np.int64)[:, None]
    shuffled = np.random.default_rng(0).permutation(cells)
    parts = [shuffled[first : first + batch] for first in range(0, cells - batch + 1, batch)]
    positions = np.arange(batch)
    return [CellBatch(rows, positions, batch, 0, (counts[rows],), types[rows]) for rows in parts]


@dataclass(frozen=True)
class DeviceBatch:
    """As `CellBatch`, with counts and labels (B, K) on the device."""

    rows: IntArray
    global_cells: int
    cells_seen: int
    counts: tuple[SparseCounts, ...]
    labels: torch.Tensor


class DeviceAutoencoderStage(AutoencoderStage):
    """The autoencoder's stage, of batches whose counts are on the device."""

    def losses(self, network: nn.Module, batch: DeviceBatch, *, purpose: str, seed: int) -> torch.Tensor:
        return network(batch.counts, batch.labels)

    def parts(self, batch: DeviceBatch) -> list[DeviceBatch]:
        return [batch]


@dataclass(frozen=True)
class PinnedBatch:
    """A batch's counts as they lie in a CSR matrix, and its labels, in memory that a GPU reads by itself."""

    rows: IntArray
    counts: tuple[torch.Tensor, ...]  # begins, features, values
    labels: torch.Tensor
    shape: tuple[int, int]

    @staticmethod
    def of(batch: CellBatch, device: torch.device) -> "PinnedBatch":
        def pinned(array: np.ndarray) -> torch.Tensor:
            tensor = torch.from_numpy(array)
            return tensor.pin_memory() if device.type == "cuda" else tensor

        csr: csr_matrix = batch.counts[0]
        parts = tuple(pinned(part) for part in (csr.indptr, csr.indices, csr.data))
        return PinnedBatch(batch.rows, parts, pinned(batch.labels), csr.shape)

    def to(self, device: torch.device, cells_seen: int) -> DeviceBatch:
        """Copied and widened there; on a GPU nobody waits."""
        wide = (torch.int64, torch.int64, torch.float32)
        parts = (p.to(device, non_blocking=True).to(d) for p, d in zip(self.counts, wide, strict=True))
        labels = self.labels.to(device, non_blocking=True)
        counts = (SparseCounts(*parts, self.shape),)
        return DeviceBatch(self.rows, len(self.rows), cells_seen, counts, labels)


def copied_ahead(batches: list[PinnedBatch], device: torch.device) -> Iterator[DeviceBatch]:
    """The batches over and over, each on the device before it is asked for."""
    side = torch.cuda.Stream(device) if device.type == "cuda" else None
    seen, ahead = 0, None
    for batch in itertools.cycle(batches):
        seen += len(batch.rows)
        with torch.cuda.stream(side):  # nothing where it is None
            made = batch.to(device, seen)
            copied = side.record_event() if side else None
        if ahead is not None:
            yield _taken_over(*ahead)
        ahead = made, copied


def _taken_over(batch: DeviceBatch, copied: torch.cuda.Event | None) -> DeviceBatch:
    """The batch, when it has arrived, as one of the stream that computes."""
    if copied is not None:
        now = torch.cuda.current_stream()
        now.wait_event(copied)
        (counts,) = batch.counts
        for tensor in (counts.begins, counts.features, counts.values, batch.labels):
            tensor.record_stream(now)
    return batch


def as_a_run_copies(batches: list[CellBatch]) -> Iterator[CellBatch]:
    """The batches over and over, on the host: the stage copies each when its turn has come."""
    seen = 0
    for batch in itertools.cycle(batches):
        seen += len(batch.rows)
        yield CellBatch(batch.rows, batch.positions, len(batch.rows), seen, batch.counts, batch.labels)


def latent_batches(
    cells: int, batch: int, latent: int, categories: int, device: torch.device
) -> Iterator[LatentBatch]:
    """What a run feeds the flow, of latents that are noise."""
    draws = torch.Generator().manual_seed(0)
    values = torch.randn(cells, latent, generator=draws).to(device)
    labels = torch.randint(categories, (cells, 1), generator=draws).to(device)
    condition = Condition(labels, torch.full((cells, 1), 7.0, device=device))
    resident = ResidentLatents(values, condition, np.arange(cells))
    return resident.batches(Order(cells, batch, 0), 0, rank=0, world=1)
