import pytest
import torch

from cfgen_scale.whitening import Whitening


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


def test_a_direction_that_is_not_used_is_not_blown_up():
    z = correlated()
    z[:, 3] = z[:, 0]
    whitening = Whitening(4)
    whitening.fit(z)
    white = whitening.whiten(z)
    assert torch.isfinite(white).all()
    assert sorted(white.var(0).round(decimals=2).tolist())[0] < 0.01
    torch.testing.assert_close(whitening.colour(white), z, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("bad", [torch.zeros(1, 4), torch.full((5, 4), float("nan"))])
def test_too_few_or_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="at least 2 finite latents"):
        Whitening(4).fit(bad)
