"""Draws by position: SplitMix64's own numbers, the right distributions, and slices of one global draw."""

import pytest
import torch
from scipy import stats

from cfgen_scale.counter_draws import CounterDraws, mixed

N = 20_000
EVERYONE = torch.arange(N)


def draws(place=0, seed=0):
    return CounterDraws(seed, "a test", place)


def test_bits_are_those_of_splitmix64():
    """The published sequence of its seed 1234567."""
    found = [bits % 2**64 for bits in mixed(1234567, torch.arange(5)).tolist()]
    assert found == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_slice_of_the_cells_has_its_slice_of_the_draws(width):
    mine = torch.tensor([3, 17, 4, 19_999])
    torch.testing.assert_close(
        draws().normal("x", mine, width), draws().normal("x", EVERYONE, width)[mine], rtol=1e-6, atol=1e-6
    )
    assert torch.equal(draws().uniform("x", mine), draws().uniform("x", EVERYONE)[mine])
    assert torch.equal(draws().integer("x", mine, 7), draws().integer("x", EVERYONE, 7)[mine])
    assert draws().normal("x", mine[:0], width).shape == (0, width)


def test_an_address_names_its_draws():
    of_first = draws().uniform("x", EVERYONE)
    assert torch.equal(of_first, draws().uniform("x", EVERYONE))
    for other in (draws(place=1), draws(seed=1)):
        assert abs(torch.corrcoef(torch.stack([of_first, other.uniform("x", EVERYONE)]))[0, 1]) < 0.03
    assert abs(torch.corrcoef(torch.stack([of_first, draws().uniform("y", EVERYONE)]))[0, 1]) < 0.03


def test_normal_draws_are_normal_and_independent():
    z = draws().normal("x", EVERYONE, 6)
    assert torch.isfinite(z).all()
    for column in z.T:
        assert stats.kstest(column.numpy(), "norm").pvalue > 1e-3
    # Columns, their squares, and a cell and the next one: five standard errors of 20,000 cells.
    for found in (torch.corrcoef(z.T), torch.corrcoef(z.square().T)):
        assert (found - torch.eye(6)).abs().max() < 5 / N**0.5
    assert (z[1:] * z[:-1]).mean(0).abs().max() < 5 / N**0.5


def test_uniform_and_integer_draws():
    uniform = draws().uniform("x", EVERYONE)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    chosen = draws().integer("x", EVERYONE, 3)
    assert stats.chisquare(torch.bincount(chosen, minlength=3).numpy()).pvalue > 1e-3
    assert draws().integer("x", EVERYONE, 1).eq(0).all()
