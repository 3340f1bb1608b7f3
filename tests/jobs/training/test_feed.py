"""What the stages are fed: the same global batches for any number of workers, and labels with their cells."""

import time
from collections.abc import Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cfgen_scale.sizes_beside import SizesBeside
from cfgen_scale.training.config import TrainConfig
from cfgen_scale.training.loop import Cells
from cfgen_scale.training.stages import LatentBatch
from cfgen_scale.types import CellBatch
from jobs.config import load_config
from jobs.training.encode import AtlasLatents
from jobs.training.feed import WaitClock, autoencoder_cells, flow_cells
from loaders.preparation.prepared import Prepared
from tests.small_atlas import N_TRAIN, N_VALIDATION, SMALL_RUN

# One epoch and a little more: 257 cells in batches of 48, the sixth of which has 17.
BATCHES = 8
WORLDS = (1, 2, 3)


@pytest.fixture(scope="module")
def prepared(small_prepared: Any) -> Prepared:
    return Prepared.open(small_prepared)


def config(**changes: Any) -> TrainConfig:
    return load_config(overrides=[*SMALL_RUN, *(f"{key}={value}" for key, value in changes.items())])


def worker(rank: int, world: int) -> Any:
    """As much of an Accelerator as the feed looks at."""
    return SimpleNamespace(process_index=rank, num_processes=world, device=torch.device("cpu"))


def flow_feed(prepared: Prepared, rank: int, world: int, **changes: Any) -> Cells:
    """A feed of latents that say whose they are: the number of the cell's row, and 1,000 less."""
    rows = [torch.from_numpy(prepared.rows(split)).float() for split in ("train", "validation")]
    training, validation = (torch.stack([r, r - 1000], dim=1) for r in rows)
    latents = AtlasLatents(training, validation, "key")
    apart = SizesBeside(2, torch.empty(0), torch.empty(0))
    model: Any = SimpleNamespace(whitening=SimpleNamespace(whiten=lambda z: z), sizes_beside=apart)
    return flow_cells(latents, model, prepared, config(**changes), worker(rank, world))


def flow_batches(prepared: Prepared, rank: int, world: int) -> list[LatentBatch]:
    return list(islice(flow_feed(prepared, rank, world).training(0), BATCHES))


def autoencoder_batches(prepared: Prepared, rank: int, world: int) -> list[CellBatch]:
    batches: Iterator[CellBatch] = autoencoder_cells(prepared, config(), worker(rank, world)).training(0)
    return list(islice(batches, 10))


@pytest.mark.parametrize("world", WORLDS)
def test_every_worker_holds_the_same_global_batches_of_latents(prepared: Prepared, world: int) -> None:
    alone = flow_batches(prepared, 0, 1)
    shares = [flow_batches(prepared, rank, world) for rank in range(world)]
    for step, whole in enumerate(alone):
        of_step = [batches[step] for batches in shares]
        assert all(torch.equal(batch.latent, whole.latent) for batch in of_step)
        assert {(batch.cells_seen, batch.global_cells) for batch in of_step} == {
            (whole.cells_seen, len(whole.latent))
        }
        positions = np.sort(np.concatenate([batch.positions for batch in of_step]))
        np.testing.assert_array_equal(positions, np.arange(whole.global_cells))
        for batch in of_step:
            np.testing.assert_array_equal(batch.rows, batch.latent[batch.positions, 0])


def test_an_epoch_of_latents_is_every_training_cell_once(prepared: Prepared) -> None:
    epoch = [batch for batch in flow_batches(prepared, 0, 1) if batch.cells_seen <= N_TRAIN]
    assert [batch.global_cells for batch in epoch] == [48, 48, 48, 48, 48, 17]
    rows = torch.cat([batch.latent[:, 0] for batch in epoch]).long().numpy()
    np.testing.assert_array_equal(np.sort(rows), prepared.rows("train"))
    assert (np.diff(rows) < 0).any(), "the order is shuffled"


@pytest.mark.parametrize("what", ["training", "validation"])
def test_labels_and_size_factors_stay_with_their_latents(prepared: Prepared, what: str) -> None:
    feed = flow_feed(prepared, 1, 2)
    batches = feed.validation() if what == "validation" else islice(feed.training(0), BATCHES)
    for batch in batches:
        rows = batch.latent[:, 0].long().numpy()
        np.testing.assert_array_equal(batch.condition.labels, prepared.labels(rows))
        np.testing.assert_allclose(batch.condition.log_size_factor, np.log(prepared.totals(rows)), rtol=1e-6)


def test_the_time_that_training_waits_for_latents_is_measured(prepared: Prepared) -> None:
    feed = flow_feed(prepared, 0, 1)
    assert feed.waited() == 0
    began = time.monotonic()
    batches = feed.training(0)
    waited = [feed.waited() for _ in islice(batches, 3)]
    assert 0 < waited[0] < waited[1] < waited[2] <= time.monotonic() - began


def test_time_between_batches_is_not_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch takes two seconds to come and five to be trained on."""
    now = [100.0]
    monkeypatch.setattr("jobs.training.feed.time.monotonic", lambda: now[0])

    def slow() -> Iterator[int]:
        for batch in range(3):
            now[0] += 2.0
            yield batch

    clock = WaitClock()
    for _ in clock.timed(slow()):
        now[0] += 5.0
    assert clock.seconds == 6.0


def test_the_feed_of_latents_goes_on_from_any_batch(prepared: Prepared) -> None:
    whole = flow_batches(prepared, 0, 1)
    resumed = next(flow_feed(prepared, 0, 1).training(whole[4].cells_seen))
    assert torch.equal(resumed.latent, whole[5].latent)
    assert resumed.cells_seen == whole[5].cells_seen


@pytest.mark.parametrize("world", WORLDS)
def test_workers_share_the_cells_that_validate_the_flow(prepared: Prepared, world: int) -> None:
    seen = [
        batch.latent[batch.positions, 0]
        for rank in range(world)
        for batch in flow_feed(prepared, rank, world).validation()
    ]
    np.testing.assert_array_equal(np.sort(torch.cat(seen).numpy()), prepared.rows("validation"))


def test_fewer_validation_cells_are_taken_from_all_over_the_split(prepared: Prepared) -> None:
    rows = prepared.rows("validation")
    few = {"flow.validation_cells": 5, "autoencoder.validation_cells": 5}
    (of_flow,) = flow_feed(prepared, 0, 1, **few).validation()
    (of_autoencoder,) = autoencoder_cells(prepared, config(**few), worker(0, 1)).validation()
    expected = rows[np.arange(5) * N_VALIDATION // 5]
    np.testing.assert_array_equal(of_flow.latent[:, 0].numpy(), expected)
    np.testing.assert_array_equal(of_autoencoder.rows, expected)


@pytest.mark.parametrize("world", WORLDS)
def test_workers_share_the_global_batches_of_counts(prepared: Prepared, world: int) -> None:
    """The ninth batch of 32 is the last cell of the epoch: all workers but one get a batch of no cell."""
    alone = autoencoder_batches(prepared, 0, 1)
    shares = [autoencoder_batches(prepared, rank, world) for rank in range(world)]
    for step, whole in enumerate(alone):
        rows = np.full(whole.global_cells, -1)
        for batch in (batches[step] for batches in shares):
            rows[batch.positions] = batch.rows
            assert (batch.cells_seen, batch.global_cells) == (whole.cells_seen, whole.global_cells)
            np.testing.assert_array_equal(batch.counts[0].toarray(), prepared.read(batch.rows)[0].toarray())
            np.testing.assert_array_equal(batch.labels, prepared.labels(batch.rows))
        np.testing.assert_array_equal(whole.positions, np.arange(whole.global_cells))
        np.testing.assert_array_equal(rows, whole.rows)
    assert [len(batches[8].rows) for batches in shares] == [1] + [0] * (world - 1)


def test_without_validation_cells_there_are_none_to_score(tmp_path: Any, small_prepared: Any) -> None:
    from loaders.preparation.prepare import prepare

    source = small_prepared.parent / "atlas.h5ad"
    prepare(source, tmp_path / "p", labels=["cell_type"], validation_fraction=0, progress=False)
    prepared = Prepared.open(tmp_path / "p")
    assert not flow_feed(prepared, 0, 1).has_validation
    assert not autoencoder_cells(prepared, config(), worker(0, 1)).has_validation
