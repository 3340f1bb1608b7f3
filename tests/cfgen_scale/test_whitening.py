import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cfgen_scale import whitening as whitening_module
from cfgen_scale.whitening import Whitening, mean_and_covariance


def correlated(n=4000):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 4, generator=g) @ torch.randn(4, 4, generator=g) * 3 + 7


def test_whitened_latents_have_mean_zero_and_unit_covariance():
    z, whitening = correlated(), Whitening(4)
    whitening.fit(z)
    white = whitening.whiten(z)
    torch.testing.assert_close(white.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cov(white.T), torch.eye(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(whitening.colour(white), z, atol=1e-3, rtol=1e-4)


def fitted(kind, z):
    whitening = Whitening(4, kind)
    whitening.fit(z)
    return whitening


@pytest.mark.parametrize("kind", ["full", "per_dimension", "unit_variance", "none"])
def test_colour_is_the_inverse_of_every_kind(kind):
    z = correlated()
    whitening = fitted(kind, z)
    torch.testing.assert_close(whitening.colour(whitening.whiten(z)), z, atol=1e-3, rtol=1e-4)


def test_dimensions_of_unit_variance_keep_their_correlations():
    z = correlated()
    white = fitted("per_dimension", z).whiten(z)
    torch.testing.assert_close(white.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cov(white.T), torch.corrcoef(z.T), atol=1e-4, rtol=0)


def test_one_scale_keeps_the_shares_of_the_variance():
    z = correlated()
    white, covariance = fitted("unit_variance", z).whiten(z), torch.cov(z.T)
    torch.testing.assert_close(white.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cov(white.T), covariance / (covariance.trace() / 4), atol=1e-4, rtol=0)
    assert white.square().mean() == pytest.approx(1, abs=1e-3)


def test_without_whitening_latents_are_as_they_are():
    z = correlated()
    assert torch.equal(fitted("none", z).whiten(z), z)


def test_a_direction_that_is_not_used_is_not_blown_up():
    z = correlated()
    z[:, 3] = z[:, 0]
    whitening = Whitening(4)
    whitening.fit(z)
    white = whitening.whiten(z)
    assert torch.isfinite(white).all()
    assert sorted(white.var(0).round(decimals=2).tolist())[0] < 0.01
    torch.testing.assert_close(whitening.colour(white), z, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", ["full", "none"])
@pytest.mark.parametrize("bad", [torch.zeros(1, 4), torch.full((5, 4), float("nan"))])
def test_too_few_or_not_finite_is_refused(bad, kind):
    with pytest.raises(ValueError, match="at least 2 finite latents"):
        Whitening(4, kind).fit(bad)


@pytest.mark.parametrize("chunk", [1, 7, 4000, 10**6])
def test_chunks_have_the_mean_and_covariance_of_the_whole(chunk, monkeypatch):
    """Also where the mean is a million times the spread, and squares of the latents have lost it."""
    monkeypatch.setattr(whitening_module, "CHUNK_CELLS", chunk)
    z = correlated().double() + 1e6
    mean, covariance = mean_and_covariance(z)
    torch.testing.assert_close(mean, z.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(covariance, torch.cov(z.T), rtol=1e-9, atol=1e-9)


def test_a_map_is_the_same_in_chunks(monkeypatch):
    z, whole, in_chunks = correlated(), Whitening(4), Whitening(4)
    whole.fit(z)
    white = whole.whiten(z)
    monkeypatch.setattr(whitening_module, "CHUNK_CELLS", 999)
    in_chunks.fit(z)
    torch.testing.assert_close(dict(in_chunks.state_dict()), dict(whole.state_dict()), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(in_chunks.whiten(z), white, rtol=1e-5, atol=1e-5)
    assert whole.whiten(z[:0]).shape == (0, 4)


def test_fitting_and_whitening_take_the_memory_of_a_chunk(monkeypatch):
    """No tensor is made that is larger than a chunk, but for the result."""
    monkeypatch.setattr(whitening_module, "CHUNK_CELLS", 100)
    z, whitening, made = correlated(), Whitening(4), []

    class Recorded(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and not out._is_view() and function.__name__ != "copy_.default":
                made.append(out.numel())
            return out

    with Recorded():
        whitening.fit(z)
        whitening.whiten(z)
    assert sorted(made)[-2:] == [400, z.numel()]
