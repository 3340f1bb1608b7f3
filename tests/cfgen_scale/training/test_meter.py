"""What a row of metrics says, against a clock that is told what to show."""

import pytest
import torch

from cfgen_scale.training.meter import Meter


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("cfgen_scale.training.meter.time.monotonic", lambda: now[0])
    return now


def test_loss_rate_and_share_of_waiting(clock, accelerator):
    waited = [7.0]
    meter = Meter(accelerator, lambda: waited[0])
    meter.add(torch.tensor(30.0), 10)
    meter.add(torch.tensor(12.0), 4)
    clock[0], waited[0] = 102.0, 7.5
    assert meter.read() == {"loss": 3.0, "cells_per_second": 7.0, "data_wait_share": 0.25}
    meter.add(torch.tensor(5.0), 5)
    clock[0] = 103.0
    assert meter.read() == {"loss": 1.0, "cells_per_second": 5.0, "data_wait_share": 0.0}


def test_of_several_workers_losses_are_summed_and_the_longest_wait_counts(clock):
    """In one exchange, and only where metrics are read."""
    exchanged = []

    class Workers:
        device = "cpu"

        def gather(self, mine):
            exchanged.append(mine.tolist())
            return torch.cat([mine, torch.tensor([10.0, 1.5])])

    meter = Meter(Workers(), lambda: clock[0] / 200)
    meter.add(torch.tensor(30.0), 10)
    clock[0] = 102.0
    assert meter.read() == {"loss": 4.0, "cells_per_second": 5.0, "data_wait_share": 0.75}
    assert exchanged == [[30.0, pytest.approx(0.01)]]


def test_time_between_a_restart_and_the_next_batch_is_not_training(clock, accelerator):
    """Validation and checkpoints are not counted."""
    meter = Meter(accelerator, lambda: 0.0)
    clock[0] = 150.0
    meter.restart()
    meter.add(torch.tensor(8.0), 8)
    clock[0] = 152.0
    assert meter.read()["cells_per_second"] == 4.0
