"""Workers that outlive their driver change nothing in a run that another trainer has taken up."""

from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from cfgen_scale.training.checkpoint import Snapshot, TrainState, checkpoints, save_checkpoint
from cfgen_scale.training.optimisation import AveragedWeights
from jobs.config import load_config
from jobs.training.books import BooksOnDisk
from jobs.training.ray_worker import HandOver
from jobs.training.run_directory import STAGES, RunDirectory, RunError, open_run, sole_trainer
from jobs.training.worker import train_worker
from loaders.preparation.prepared import Prepared
from tests.small_atlas import SMALL_RUN


def run_at(path: Path, data: Path) -> RunDirectory:
    config = asdict(load_config(overrides=SMALL_RUN))
    return open_run(path, config=config, data=data, data_digest=Prepared.open(data).arrangement)


def files_of(run: RunDirectory) -> dict[Path, int]:
    """What lies in a run that looks complete, and when it came."""
    found = {p: p.stat().st_mtime_ns for p in run.path.rglob("*") if p.is_file() and p != run.lock}
    return {path: came for path, came in found.items() if "aside" not in str(path)}


# Two of these are checkpoints of the autoencoder, then its last one and its result; the whitening; the flow.
@pytest.mark.parametrize("written", [1, 5, 10, 11, 13, 15])
def test_a_trainer_whose_run_is_taken_up_ends_there(
    small_prepared: Path, tmp_path: Path, written: int
) -> None:
    """Before it would write its so many-th thing another one has come."""
    run, seen = run_at(tmp_path / "run", small_prepared), []

    def guard() -> None:
        seen.append(files_of(run))
        if len(seen) == written:
            run.lock.write_text("another")
        run.require_owner(owner)

    with sole_trainer(run):
        owner = run.lock.read_text()
        with pytest.raises(RunError, match="taken up by another trainer: this one ends"):
            train_worker(
                run, STAGES, workers=1, on_gpu=False, guard=guard, books=BooksOnDisk(tmp_path / "books")
            )
    assert files_of(run) == seen[written - 1]
    assert not run.model.exists()


def test_nothing_is_handed_to_ray_in_the_name_of_a_run_that_is_anothers(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.lock.write_text("another")
    with pytest.raises(RunError, match="taken up"):
        HandOver(run, 0, partial(run.require_owner, "first")).everything()
    assert not (tmp_path / "ray").exists()


@pytest.fixture
def save(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Save a checkpoint at a position."""
    network = nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(network.parameters())

    def of(cells_seen: int) -> Path:
        state = TrainState(cells_seen=cells_seen)
        averaged = AveragedWeights(network, 10)
        snapshot = Snapshot.of(state, network=network, averaged=averaged, optimiser=optimiser, best=None)
        return save_checkpoint(tmp_path, snapshot)

    return of


def test_a_checkpoint_is_kept_where_others_lie_ahead(save, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Left by a trainer that was ahead; this one resumed before them, and comes to them again."""
    for ahead in (300, 400):
        save(ahead)
    for cells_seen, kept in (
        (100, [100, 300, 400]),
        (150, [100, 150, 300, 400]),
        (200, [150, 200, 300, 400]),
        (300, [200, 300, 400]),
        (400, [300, 400]),
    ):
        assert save(cells_seen).exists()
        assert [int(path.name) for path in checkpoints(tmp_path)] == kept
