"""Checkpoints are written beside training: complete, of one moment, and never in silence lost."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cfgen_scale.training.checkpoint import Snapshot, TrainState, save_checkpoint
from cfgen_scale.training.optimisation import AveragedWeights
from cfgen_scale.training.writing import CheckpointWriter


def test_training_goes_on_while_a_checkpoint_is_written_and_the_next_one_waits(tmp_path: Path) -> None:
    go, order = threading.Event(), []

    def save(name: str) -> Path:
        assert go.wait(10)
        order.append(name)
        return tmp_path / name

    with CheckpointWriter() as writer:
        first = writer.write(partial(save, "first"))
        assert not first.done()
        go.set()
        second = writer.write(partial(save, "second"))
        assert first.done()
    assert second.result() == tmp_path / "second"
    assert order == ["first", "second"]


def fail() -> Path:
    raise OSError("no space left on device")


def test_an_error_of_the_writing_is_raised_at_the_next_checkpoint(tmp_path: Path) -> None:
    with CheckpointWriter() as writer:
        writer.write(fail)
        with pytest.raises(OSError, match="no space left"):
            writer.write(lambda: tmp_path)


def test_an_error_of_the_last_writing_is_raised_at_the_end() -> None:
    with pytest.raises(OSError, match="no space left"), CheckpointWriter() as writer:
        writer.write(fail)


def test_an_error_of_training_comes_first_and_the_checkpoint_is_completed(tmp_path: Path) -> None:
    begun, written = threading.Event(), tmp_path / "written"

    def save() -> Path:
        begun.wait(10)
        written.touch()
        return written

    def train(save: Callable[[], Path]) -> None:
        with CheckpointWriter() as writer:
            writer.write(save)
            begun.set()
            raise KeyError

    with pytest.raises(KeyError):
        train(save)
    assert written.exists()
    with pytest.raises(KeyError) as error:
        train(fail)
    assert "no space left" in error.value.__notes__[0]


def test_a_snapshot_is_of_one_moment(tmp_path: Path) -> None:
    network = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(network.parameters())
    averaged = AveragedWeights(network, 100)

    def step() -> None:
        network(torch.ones(4, 3)).square().sum().backward()
        optimiser.step()
        averaged.update(network.named_parameters(), 4, 1000)

    step()
    state = TrainState(cells_seen=7)
    snapshot = Snapshot.of(state, network=network, averaged=averaged, optimiser=optimiser, best=None)
    weight, average = network.weight.detach().clone(), averaged.weights["weight"].clone()
    moment = optimiser.state[network.weight]["exp_avg"].clone()
    step()
    state.cells_seen = 8
    path = save_checkpoint(tmp_path, snapshot)
    assert int(path.name) == 7
    assert torch.equal(load_file(path / "network.safetensors")["weight"], weight)
    assert torch.equal(load_file(path / "averaged.safetensors")["weight"], average)
    assert torch.equal(load_file(path / "optimiser.safetensors")["0.exp_avg"], moment)
