import numpy as np
import pytest
import torch

from cfgen_scale.model import CFGen
from cfgen_scale.sizes_beside import LEAST_SPREAD, SizesBeside
from cfgen_scale.whitening import Whitening

N = 4000


def unfitted(n_sizes):
    return SizesBeside(4, torch.full((n_sizes,), 6.0), torch.full((n_sizes,), 0.5))


@pytest.fixture
def cells():
    """Latents (N, 4) of which log l (N, 2) is a linear function, and noise of sd 0.3 and 0.1."""
    draws = torch.Generator().manual_seed(0)
    latents = torch.randn(N, 4, generator=draws) * torch.tensor([3.0, 1.0, 0.5, 2.0]) + 1
    noise = torch.randn(N, 2, generator=draws) * torch.tensor([0.3, 0.1])
    slope = torch.tensor([[0.2, 0.0], [0.0, -0.3], [0.4, 0.1], [0.0, 0.0]])
    return latents, latents @ slope + torch.tensor([7.0, 5.0]) + noise


@pytest.fixture(params=["full", "none"])
def fitted(cells, request):
    whitening = Whitening(4, request.param)
    whitening.fit(cells[0])
    beside = unfitted(2)
    beside.fit(whitening, *cells)
    return whitening, beside


def test_what_the_latent_does_not_say_of_sizes_has_mean_0_and_variance_1(fitted, cells):
    whitening, beside = fitted
    white = whitening.whiten(cells[0])
    state = beside.join(white, cells[1])
    assert state.shape == (N, 6)
    assert torch.equal(state[:, :4], white)
    together = torch.cat([cells[0], state[:, 4:]], dim=1)
    assert torch.allclose(state[:, 4:].mean(0), torch.zeros(2), atol=1e-3)
    assert torch.allclose(state[:, 4:].var(0), torch.ones(2), atol=1e-3)
    assert torch.corrcoef(together.T)[:4, 4:].abs().max() < 3e-3
    assert torch.allclose(beside.spread, torch.tensor([0.3, 0.1]), rtol=0.05)


def test_states_are_parted_into_what_they_were_joined_from(fitted, cells):
    whitening, beside = fitted
    white = whitening.whiten(cells[0])
    back, log_sizes = beside.part(beside.join(white, cells[1]))
    assert torch.equal(back, white)
    assert torch.allclose(log_sizes, cells[1], atol=1e-5)


def test_equal_sizes_have_a_spread_nevertheless(cells):
    whitening, beside = Whitening(4), unfitted(1)
    whitening.fit(cells[0])
    beside.fit(whitening, cells[0], torch.full((N, 1), 8.0))
    assert beside.spread.item() == pytest.approx(LEAST_SPREAD)
    _, log_sizes = beside.part(torch.randn(50, 5))
    assert torch.allclose(log_sizes, torch.full((50, 1), 8.0), atol=0.01)


def test_sizes_of_zero_are_refused(cells):
    with pytest.raises(ValueError, match=r"library size .* is zero"):
        unfitted(1).fit(Whitening(4), cells[0], torch.full((N, 1), -torch.inf))


def test_without_sizes_the_flow_moves_the_latent_alone(cells):
    beside = unfitted(0)
    beside.fit(Whitening(4), *cells)
    assert beside.width == 4
    assert torch.equal(beside.join(*cells), cells[0])
    white, none = beside.part(cells[0])
    assert (white.shape, none.shape) == ((N, 4), (N, 0))


def test_generated_sizes_are_those_of_the_flow_unless_given(model_of):
    model = model_of()
    labels = np.zeros((30, 2), dtype=np.int64)
    drawn = model.draw_latents(labels, guidance=[1, 1], seed=3)
    assert drawn.latent.shape == (30, 5)
    assert drawn.log_size_factor.shape == (30, 1)
    assert abs(drawn.log_size_factor.mean() - 4) < 1
    given = model.draw_latents(labels, guidance=[1, 1], seed=3, log_size_factor=np.full((30, 1), 2.0))
    assert np.array_equal(given.latent, drawn.latent)
    assert (given.log_size_factor == 2).all()


def test_a_model_takes_its_sizes_with_it(model_of, tmp_path):
    model = model_of()
    model.sizes_beside.slope.fill_(0.25)
    model.sizes_beside.spread.fill_(0.5)
    again = CFGen.load(model.save(tmp_path / "model"))
    labels = np.full((20, 2), -1, dtype=np.int64)
    one, other = (m.draw_latents(labels, guidance=[1, 1], seed=0) for m in (model, again))
    assert np.array_equal(one.log_size_factor, other.log_size_factor)
    assert model.transport(torch.randn(3, 6), _told_nothing(3), guidance=[0, 0]).shape == (3, 6)


def _told_nothing(n):
    from cfgen_scale.types import Condition

    return Condition(torch.full((n, 2), -1), torch.zeros(n, 1))
