"""Both stages over cells in memory, in the order of plain slices."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from scipy.sparse import csr_matrix

from cfgen_scale.training import (
    AutoencoderStage,
    AutoencoderStageConfig,
    Cells,
    FlowStage,
    FlowStageConfig,
    LatentBatch,
)
from cfgen_scale.types import CellBatch, Condition

N, BATCH = 70, 16


@pytest.fixture
def accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


def cells_of(batch_of, *, held_out=None, seen=None):
    """Cells whose global batch at ``cells_seen`` is the next 16 of 70 rows, the last of an epoch shorter."""

    def training(cells_seen):
        while True:
            first = cells_seen % N
            rows = np.arange(first, min(first + BATCH, N))
            cells_seen += len(rows)
            if seen is not None:
                seen.append((cells_seen, rows.tolist()))
            yield batch_of(rows, cells_seen)

    def validation():
        yield (held_out or batch_of)(np.arange(10), 0)

    return Cells(training, validation, n_training=N, has_validation=True, waited=lambda: 0.0, order="")


def drawn_cells(seed):
    profiles = np.random.default_rng(0).gamma(0.5, 2.0, (3, 40))
    draws = np.random.default_rng(seed)
    return csr_matrix(draws.poisson(profiles[draws.integers(0, 3, N)]) + np.eye(N, 40, dtype=np.int32))


@pytest.fixture
def autoencoder_stage(model_of):
    """(stage, cells) of a fresh autoencoder: keyword arguments go to AutoencoderStageConfig."""

    def batches_of(counts):
        def batch_of(rows, cells_seen):
            labels = np.stack([rows % 3, rows % 2], axis=1)
            return CellBatch(rows, np.arange(len(rows)), len(rows), cells_seen, (counts[rows],), labels)

        return batch_of

    batch_of, held_out = batches_of(drawn_cells(1)), batches_of(drawn_cells(2))

    def build(seen=None, latent_noise=0.0, **config):
        settings = {"cells": 400, "batch_cells": BATCH, "learning_rate": 1e-2, "warmup_cells": 50, **config}
        network = model_of(latent_noise=latent_noise).autoencoder
        stage = AutoencoderStage(network, AutoencoderStageConfig(**settings))
        return stage, cells_of(batch_of, held_out=held_out, seen=seen)

    return build


@pytest.fixture
def flow_stage(model_of):
    """(stage, cells) of a fresh velocity over correlated latents."""
    latents = torch.randn(N, 5, generator=torch.Generator().manual_seed(0)).cumsum(1)

    def batch_of(rows, cells_seen):
        labels = torch.from_numpy(np.stack([rows % 3, rows % 2], axis=1))
        condition = Condition(labels, torch.full((len(rows), 1), 4.0))
        return LatentBatch(latents[rows], condition, torch.arange(len(rows)), rows, cells_seen)

    def build(seen=None, **config):
        settings = {"cells": 400, "batch_cells": BATCH, "learning_rate": 1e-2, "warmup_cells": 0, **config}
        return FlowStage(model_of(size_factors="log_normal").velocity, FlowStageConfig(**settings)), cells_of(
            batch_of, seen=seen
        )

    return build


class KilledError(Exception):
    """A run dies."""


def killed_behind(cells: Cells, cells_seen: int) -> Cells:
    """The same cells, of which a run dies when it asks for a batch behind ``cells_seen``."""

    def until_killed(begin):
        for batch in cells.training(begin):
            if batch.cells_seen > cells_seen:
                raise KilledError
            yield batch

    return replace(cells, training=until_killed)
