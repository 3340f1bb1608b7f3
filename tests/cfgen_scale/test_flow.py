"""The path, telling and pairing of Algorithm 1."""

import pytest
import torch

from cfgen_scale.counter_draws import CounterDraws
from cfgen_scale.flow import about, flow_loss, linear_path, pair_noise, tell
from cfgen_scale.types import Condition

DRAWS = CounterDraws(0, "a test")


def test_path_runs_from_noise_to_data_at_constant_velocity():
    z_0, z_1 = torch.randn(6, 3), torch.randn(6, 3)
    torch.testing.assert_close(linear_path(z_0, z_1, torch.zeros(6)).z_t, z_0)
    torch.testing.assert_close(linear_path(z_0, z_1, torch.ones(6)).z_t, z_1)
    early, late = (linear_path(z_0, z_1, torch.full((6,), t)) for t in (0.25, 0.75))
    torch.testing.assert_close((late.z_t - early.z_t) / 0.5, early.u_t)


def test_noise_about_the_path_leaves_time_and_target():
    z_0, z_1, noise = torch.randn(3, 6, 3)
    path = linear_path(z_0, z_1, torch.rand(6))
    blurred = about(path, 0.5, noise)
    torch.testing.assert_close(blurred.z_t, path.z_t + 0.5 * noise)
    assert blurred.t is path.t
    assert blurred.u_t is path.u_t


def test_a_share_of_the_cells_has_its_share_of_the_tellings():
    labels, mine = torch.arange(60).view(30, 2), torch.arange(1, 30, 3)
    told = tell(DRAWS, torch.arange(30), labels, 0.3)
    assert torch.equal(tell(DRAWS, mine, labels[mine], 0.3), told[mine])


def test_telling_is_per_cell_none_or_one_attribute():
    cells = torch.arange(20_000)
    labels = torch.stack([cells % 5, cells % 3], dim=1)
    told = tell(DRAWS, cells, labels, 0.2)
    known = told >= 0
    assert (told[known] == labels[known]).all()
    assert known.sum(1).max() == 1
    shares = torch.stack([~known.any(1), known[:, 0], known[:, 1]]).float().mean(1)
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.4, 0.4]), atol=0.02, rtol=0)


def test_all_attributes_are_told_or_none():
    cells = torch.arange(20_000)
    labels = torch.stack([cells % 5, cells % 3, cells % 2], dim=1)
    told = tell(DRAWS, cells, labels, 0.2, "all")
    known = told >= 0
    assert (known.all(1) | ~known.any(1)).all()
    assert known.any(1).float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert (told[known] == labels[known]).all()


def test_every_subset_is_told_as_often():
    cells = torch.arange(40_000)
    labels = torch.stack([cells % 5, cells % 3, cells % 2], dim=1)
    known = tell(DRAWS, cells, labels, 0.2, "subset") >= 0
    shares = torch.bincount((known * torch.tensor([1, 2, 4])).sum(1), minlength=8) / len(cells)
    torch.testing.assert_close(shares, torch.tensor([0.2] + [0.8 / 7] * 7), atol=0.01, rtol=0)


def test_telling_keeps_unlabelled_cells_untold_and_bears_no_attributes():
    unlabelled, cells = torch.full((50, 2), -1), torch.arange(50)
    assert (tell(DRAWS, cells, unlabelled, 0.0) == -1).all()
    none = torch.empty(50, 0, dtype=torch.int64)
    assert tell(DRAWS, cells, none, 0.2).shape == (50, 0)


def test_pairing_permutes_the_noise_alone_and_lowers_the_cost():
    z_1, z_0 = torch.randn(32, 4), torch.randn(32, 4)
    paired = pair_noise(z_0, z_1)
    assert sorted(map(tuple, paired.tolist())) == sorted(map(tuple, z_0.tolist()))
    assert (paired - z_1).square().sum() < (z_0 - z_1).square().sum()


def test_pairing_finds_the_known_assignment():
    """Data are the noise, shifted and shuffled: each cell gets its own noise back, whatever its label."""
    z_0 = torch.arange(10.0)[:, None] * 100
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    z_1 = z_0[order] + 1.0
    torch.testing.assert_close(pair_noise(z_0, z_1), z_0[order])


def test_loss_is_zero_for_the_true_velocity_and_per_cell():
    z_0, z_1 = torch.randn(4, 3), torch.randn(4, 3)
    path = linear_path(z_0, z_1, torch.rand(4))
    condition = Condition(torch.zeros(4, 1, dtype=torch.int64), torch.zeros(4, 1))
    assert flow_loss(lambda t, z, c: z_1 - z_0, path, condition).tolist() == [0.0] * 4
    off = flow_loss(lambda t, z, c: z_1 - z_0 + torch.tensor([1.0, 2.0, 0.0]), path, condition)
    torch.testing.assert_close(off, torch.full((4,), 5 / 3))
