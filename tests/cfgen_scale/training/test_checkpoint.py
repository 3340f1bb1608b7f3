import torch

from cfgen_scale.training.checkpoint import (
    Snapshot,
    TrainState,
    checkpoints,
    load_state,
    load_tensors,
    save_checkpoint,
)
from cfgen_scale.training.optimisation import AveragedWeights


def trained(seed):
    torch.manual_seed(seed)
    network = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    averaged = AveragedWeights(network, 100)
    for _ in range(3):
        network(torch.randn(4, 3)).square().sum().backward()
        optimiser.step()
    averaged.update(network.named_parameters(), 10, 1000)
    return network, optimiser, averaged


def save(directory, state, parts, best=None):
    network, optimiser, averaged = parts
    snapshot = Snapshot.of(state, network=network, averaged=averaged, optimiser=optimiser, best=best)
    return save_checkpoint(directory, snapshot)


def test_everything_comes_back(tmp_path):
    parts = trained(0)
    state = TrainState(cells_seen=123, best_loss=4.5, best_cells_seen=100, without_better=1)
    state.made_of, state.circumstances = {"seed": 1, "configuration": {"cells": 5}}, {"workers": 2}
    path = save(tmp_path, state, parts, best={"weight": torch.ones(2, 3)})
    network, optimiser, averaged = other = trained(1)
    best = load_tensors(path, network=network, averaged=averaged, optimiser=optimiser)
    assert load_state(path) == state
    assert best["weight"].eq(1).all()
    assert torch.equal(network.weight, parts[0].weight)
    assert torch.equal(averaged.weights["bias"], parts[2].weights["bias"])
    for ours, theirs in zip(other[1].state.values(), parts[1].state.values(), strict=True):
        assert all(torch.equal(ours[k], theirs[k]) for k in ("step", "exp_avg", "exp_avg_sq"))


def test_a_checkpoint_holds_no_pickle(tmp_path):
    path = save(tmp_path, TrainState(cells_seen=5), trained(0))
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json"}


def test_the_newest_two_are_kept_and_what_is_half_written_is_not_one(tmp_path):
    for n in (5, 10, 100):
        save(tmp_path, TrainState(cells_seen=n), trained(0))
    (tmp_path / ".000000000000200.1.aside").mkdir()
    (tmp_path / "000000000000300").mkdir()
    assert [int(p.name) for p in checkpoints(tmp_path)] == [10, 100]
    assert checkpoints(tmp_path / "nowhere") == []
