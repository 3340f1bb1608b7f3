"""Whitened latents: the flow starts from N(0, I), so its data are given that scale in every direction."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

CHUNK_CELLS = 65_536
WhiteningKind = Literal["full", "per_dimension", "unit_variance", "none"]


class Whitening(nn.Module):
    """An affine bijection between the autoencoder's latent z and the latent that the flow is trained on.

    ``whiten(z) = (z - mean) @ to_white`` and back; all (B, D) float32. By ``kind`` the latter has, over the
    training cells,

    full            mean 0 and covariance I: every direction has the variance of the noise
    per_dimension   mean 0 and variance 1 in each of the D dimensions; their correlations stay
    unit_variance   mean 0 and variance 1 on the mean over dimensions, by one scale for all: directions keep
                    their shares of the variance
    none            whatever the autoencoder's has: it is the same

    Of the first two, directions with less than ``floor`` of the largest variance are scaled as if they had
    that much, so that rounding in a direction which the encoder does not use is not blown up to unit
    variance.
    """

    mean: torch.Tensor
    to_white: torch.Tensor
    from_white: torch.Tensor

    def __init__(self, latent: int, kind: WhiteningKind = "full") -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("mean", torch.zeros(latent))
        self.register_buffer("to_white", torch.eye(latent))
        self.register_buffer("from_white", torch.eye(latent))

    def fit(self, latents: torch.Tensor, floor: float = 1e-3) -> None:
        """Set the map from the latents (N, D) of the training cells; computed in float64, chunk by chunk.

        Raises ValueError for fewer than two cells or latents that are not finite.
        """
        mean, covariance = mean_and_covariance(latents)
        if len(latents) < 2 or not torch.isfinite(covariance).all():
            raise ValueError(f"whitening needs at least 2 finite latents, got {tuple(latents.shape)}.")
        if self.kind == "none":
            return
        variances, axes = covariance.diagonal(), torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
        match self.kind:
            case "full":
                variances, axes = torch.linalg.eigh(covariance)
            case "unit_variance":
                variances = variances.mean().expand_as(variances)
        spread = variances.clamp(min=floor * variances.max().clamp(min=1e-12)).sqrt()
        self.mean.copy_(mean)
        self.to_white.copy_(axes / spread)
        self.from_white.copy_((axes * spread).T)

    def whiten(self, z: torch.Tensor) -> torch.Tensor:
        """The map of z (N, D), on the map's own device. Beside the result it needs the memory of one chunk of
        z, which may lie elsewhere."""
        white = torch.empty(z.shape, dtype=self.mean.dtype, device=self.mean.device)
        for some in _chunks(len(z)):
            white[some] = (z[some].to(self.mean.device) - self.mean) @ self.to_white
        return white

    def colour(self, z: torch.Tensor) -> torch.Tensor:
        """The inverse of ``whiten``."""
        return z @ self.from_white + self.mean


def mean_and_covariance(*columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of the ``columns`` side by side, (N, d) each, of D in all;
    float64; not finite where they are not, or N < 2.

    A chunk at a time about its own mean, and the two parts joined (Chan, Golub and LeVeque 1983,
    doi:10.1080/00031305.1983.10483115): no digits are lost where the mean is far from zero.
    """
    n, device = len(columns[0]), columns[0].device
    n_features = sum(some.shape[1] for some in columns)
    mean = torch.zeros(n_features, dtype=torch.float64, device=device)
    scatter = torch.zeros(n_features, n_features, dtype=torch.float64, device=device)
    for some in _chunks(n):
        part = torch.cat([z[some].double().to(device) for z in columns], dim=1)
        centre = part.mean(0)
        part, shift = part - centre, centre - mean
        before, together = some.start, some.stop
        scatter += part.T @ part + torch.outer(shift, shift) * (before * len(part) / together)
        mean += shift * (len(part) / together)
    return mean, scatter / (n - 1) if n > 1 else torch.full_like(scatter, torch.nan)


def _chunks(n: int) -> Iterator[slice]:
    return (slice(first, min(first + CHUNK_CELLS, n)) for first in range(0, n, CHUNK_CELLS))
