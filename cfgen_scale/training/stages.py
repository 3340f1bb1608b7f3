"""The two stages as losses per cell: what differs between training the autoencoder and the flow.

Neither network is given to `torch.compile`. Measured on two cores of an AMD EPYC, forward and backward, least
processor time of 12 calls in turn: the decoder's layers (256 cells, 20,000 genes) 198 ms as they are and 198
compiled, since their time is the last product, and the likelihood has a gradient of its own; the flow (8,192
cells) 532 and 419 ms. That is a fifth of a stage whose cells take a tenth of what the decoder's layers alone
take; for it every worker would need a C++ compiler, and 20 s for its first step. Not measured on a GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import nn

from ..autoencoder import Autoencoder, AutoencoderConfig
from ..counter_draws import CounterDraws
from ..counts import SparseCounts
from ..flow import about, flow_loss, linear_path, pair_noise, tell
from ..perturbation import Perturbation
from ..times import UNIFORM, draw_times
from ..types import CellBatch, Condition, IntArray, PathSample
from ..velocity import Velocity, VelocityConfig
from .config import AutoencoderStageConfig, FlowStageConfig, StageConfig

TRAINING = "training"  # the purpose of losses that are followed backwards


@dataclass(frozen=True)
class LatentBatch:
    """A global batch of whitened latents; every worker holds all of it and trains on its own share.

    latent (B_global, D) float32; condition of all its cells; positions (B,) int64: this worker's cells; rows
    (B,) int64: theirs in the prepared atlas; cells_seen AFTER this batch.
    """

    latent: torch.Tensor
    condition: Condition
    positions: torch.Tensor
    rows: IntArray
    cells_seen: int

    @property
    def global_cells(self) -> int:
        return len(self.latent)


class Batch(Protocol):
    """What the loop needs of any batch; rows (B,) of this worker's cells, in the prepared atlas."""

    @property
    def rows(self) -> IntArray: ...
    @property
    def global_cells(self) -> int: ...
    @property
    def cells_seen(self) -> int: ...


class Stage[B: Batch](Protocol):
    """A stage of training: a network, its budget, and the loss of each of a worker's cells."""

    @property
    def name(self) -> str: ...
    @property
    def network(self) -> nn.Module: ...
    @property
    def network_config(self) -> AutoencoderConfig | VelocityConfig: ...
    @property
    def config(self) -> StageConfig: ...

    def losses(self, network: nn.Module, batch: B, *, purpose: str, seed: int) -> torch.Tensor:
        """Loss of this worker's cells (B,); draws are addressed by (seed, purpose, cells seen)."""
        ...

    def parts(self, batch: B) -> list[B]:
        """This worker's cells in parts of at most ``config.cells_at_once``; one empty part if it has none."""
        ...


class AutoencoderStage:
    """Negative log-likelihood of raw counts (METHOD 3)."""

    name = "autoencoder"

    def __init__(self, network: Autoencoder, config: AutoencoderStageConfig) -> None:
        self.network, self.config, self.network_config = network, config, network.config

    def losses(self, network: nn.Module, batch: CellBatch, *, purpose: str, seed: int) -> torch.Tensor:
        device = next(network.parameters()).device
        counts: Sequence[SparseCounts] = [SparseCounts.from_csr(c, device) for c in batch.counts]
        labels = torch.from_numpy(batch.labels).to(device)
        noise = self.network_config.latent_noise
        if purpose != TRAINING or not (self.config.perturbs or noise):
            return network(counts, labels)
        perturbation = Perturbation(
            CounterDraws(seed, f"autoencoder {purpose}", batch.cells_seen),
            torch.from_numpy(batch.positions).to(device),
            dropout=self.config.dropout,
            thinning=self.config.thinning,
            latent_noise=noise,
        )
        return network(counts, labels, perturbation)

    def parts(self, batch: CellBatch) -> list[CellBatch]:
        slices = _slices(len(batch.rows), self.config.cells_at_once)
        if len(slices) == 1:
            return [batch]  # slicing copies the counts
        return [
            replace(
                batch,
                rows=batch.rows[some],
                positions=batch.positions[some],
                counts=tuple(c[some] for c in batch.counts),
                labels=batch.labels[some],
            )
            for some in slices
        ]


class FlowStage:
    """Conditional flow matching in the whitened latent (Algorithm 1)."""

    name = "flow"

    def __init__(self, network: Velocity, config: FlowStageConfig) -> None:
        self.network, self.config, self.network_config = network, config, network.config

    def losses(self, network: nn.Module, batch: LatentBatch, *, purpose: str, seed: int) -> torch.Tensor:
        """Each cell's draws are functions of its position: a worker makes those of its own cells, except
        that optimal transport pairs the noise of the global batch."""
        mine = batch.positions.to(batch.latent.device)
        draws = CounterDraws(seed, f"flow {purpose}", batch.cells_seen)
        path = self._path(batch, mine, draws, training=purpose == TRAINING)
        labels, kind = batch.condition.labels[mine], self.network_config.attributes_told
        told = tell(draws, mine, labels, self.config.p_untold, kind)
        return flow_loss(network, path, Condition(told, batch.condition.log_size_factor[mine]))

    def _path(
        self, batch: LatentBatch, mine: torch.Tensor, draws: CounterDraws, *, training: bool
    ) -> PathSample:
        """Points of the paths to the cells at positions ``mine``; validated at uniform times, on the path."""
        width = batch.latent.shape[1]
        if self.config.pairing == "optimal_transport":
            everyone = torch.arange(batch.global_cells, device=mine.device)
            noise = pair_noise(draws.normal("noise", everyone, width), batch.latent)[mine]
        else:
            noise = draws.normal("noise", mine, width)
        times = draw_times(draws, mine, batch.global_cells, self.config.times if training else UNIFORM)
        path = linear_path(noise, batch.latent[mine], times)
        if training and self.config.path_noise:
            return about(path, self.config.path_noise, draws.normal("path noise", mine, width))
        return path

    def parts(self, batch: LatentBatch) -> list[LatentBatch]:
        slices = _slices(len(batch.positions), self.config.cells_at_once)
        return [replace(batch, positions=batch.positions[some], rows=batch.rows[some]) for some in slices]


def _slices(n: int, most: int | None) -> list[slice]:
    """Slices of at most ``most`` that make up 0 .. n; one, empty, where n is 0."""
    step = max(n if most is None else most, 1)
    return [slice(first, min(first + step, n)) for first in range(0, max(n, 1), step)]
