"""Whitened latents: the flow starts from N(0, I), so its data are given that scale in every direction."""

import torch
from torch import nn


class Whitening(nn.Module):
    """An affine bijection between the autoencoder's latent z and a latent of mean 0 and covariance I.

    ``whiten(z) = (z - mean) @ forward_matrix`` and back; all (B, D) float32. Directions with less than
    ``floor`` of the largest variance are scaled as if they had that much, so that rounding in a direction
    which the encoder does not use is not blown up to unit variance.
    """

    mean: torch.Tensor
    to_white: torch.Tensor
    from_white: torch.Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(latent))
        self.register_buffer("to_white", torch.eye(latent))
        self.register_buffer("from_white", torch.eye(latent))

    def fit(self, latents: torch.Tensor, floor: float = 1e-3) -> None:
        """Set the map from the latents (N, D) of the training cells; computed in float64.

        Raises ValueError for fewer than two cells or latents that are not finite.
        """
        if len(latents) < 2 or not torch.isfinite(latents).all():
            raise ValueError(f"whitening needs at least 2 finite latents, got {tuple(latents.shape)}.")
        z = latents.double()
        values, vectors = torch.linalg.eigh(torch.cov(z.T).reshape(z.shape[1], z.shape[1]))
        spread = values.clamp(min=floor * values.max().clamp(min=1e-12)).sqrt()
        self.mean.copy_(z.mean(0))
        self.to_white.copy_(vectors / spread)
        self.from_white.copy_((vectors * spread).T)

    def whiten(self, z: torch.Tensor) -> torch.Tensor:
        return (z - self.mean) @ self.to_white

    def colour(self, z: torch.Tensor) -> torch.Tensor:
        """The inverse of ``whiten``."""
        return z @ self.from_white + self.mean
