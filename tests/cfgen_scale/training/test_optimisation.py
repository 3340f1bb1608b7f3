import math

import pytest
import torch

from cfgen_scale.training.config import FlowStageConfig, StageConfig
from cfgen_scale.training.optimisation import (
    AveragedWeights,
    learning_rate,
    make_optimiser,
    set_learning_rate,
)


def config(**changes):
    return StageConfig(
        **{"cells": 1000, "batch_cells": 10, "learning_rate": 0.1, "warmup_cells": 100, **changes}
    )


def test_warm_up_is_linear_in_cells():
    assert [learning_rate(config(), n) for n in (0, 50, 100, 900)] == pytest.approx([0, 0.05, 0.1, 0.1])


def test_cosine_ends_at_a_fiftieth():
    decaying = config(decay="cosine", warmup_cells=0)
    assert learning_rate(decaying, 0) == pytest.approx(0.1)
    assert learning_rate(decaying, 500) == pytest.approx(0.1 * (0.02 + 0.98 * 0.5))
    assert learning_rate(decaying, 1000) == learning_rate(decaying, 5000) == pytest.approx(0.002)


def test_theta_learns_faster_and_is_not_decayed(model_of):
    autoencoder = model_of().autoencoder
    optimiser = make_optimiser(autoencoder, config(weight_decay=0.3))
    set_learning_rate(optimiser, 0.01)
    theta = autoencoder.decoders["rna"].log_theta
    of_theta = next(g for g in optimiser.param_groups if any(p is theta for p in g["params"]))
    others = next(g for g in optimiser.param_groups if g is not of_theta)
    assert (of_theta["lr"], of_theta["weight_decay"]) == (0.1, 0.0)
    assert (others["lr"], others["weight_decay"]) == (0.01, 0.3)
    assert sum(len(g["params"]) for g in optimiser.param_groups) == len(list(autoencoder.parameters()))


def test_average_has_its_half_life_in_cells_whatever_the_batch():
    network = torch.nn.Linear(1, 1, bias=False)
    for steps in (1, 4):
        torch.nn.init.zeros_(network.weight)
        averaged = AveragedWeights(network, half_life_cells=200)
        torch.nn.init.ones_(network.weight)
        for step in range(steps):
            averaged.update(network.named_parameters(), 400 // steps, 10_000 + step)
        assert averaged.weights["weight"].item() == pytest.approx(0.75)


def test_average_forgets_the_start_quickly():
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    averaged = AveragedWeights(network, half_life_cells=10**9)
    torch.nn.init.ones_(network.weight)
    averaged.update(network.named_parameters(), 100, 100)
    assert averaged.weights["weight"].item() == pytest.approx(1 - 0.5**5)


@pytest.mark.parametrize(
    "bad", [{"cells": 0}, {"batch_cells": -1}, {"patience": -1}, {"learning_rate": math.nan}]
)
def test_impossible_budgets_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        config(**bad)
    with pytest.raises(ValueError, match="p_untold"):
        FlowStageConfig(cells=1, batch_cells=1, learning_rate=1.0, p_untold=1.5)
