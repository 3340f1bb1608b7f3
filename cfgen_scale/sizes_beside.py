"""Library sizes that the flow draws together with the latent: p(z, l | y) instead of p(z | y) p(l | c)."""

import torch
from torch import nn

from .whitening import Whitening, mean_and_covariance

LEAST_SPREAD = 1e-3
RIDGE = 1e-4


class SizesBeside(nn.Module):
    """An affine bijection between (whitened latent, log l) and what the flow moves, (B, D + S).

    Its first D coordinates are the whitened latent itself; each of the S others is what a linear regression
    on the latent leaves of log l, over its standard deviation in the training cells (at least 0.001, so that
    cells of equal sizes can be learned). An encoder that hears raw counts knows much of the library size,
    and so does a cell's type: drawn apart, cells get sizes that no cell like them has.

    Until it is fitted, log l has mean ``mean`` and standard deviation ``sd`` (S,) whatever the latent.
    With S = 0, sizes are drawn apart (`SizeFactors`) and the flow moves the latent alone.
    """

    slope: torch.Tensor
    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, latent: int, mean: torch.Tensor, sd: torch.Tensor) -> None:
        super().__init__()
        self.latent, self.n_sizes = latent, len(mean)
        self.register_buffer("slope", torch.zeros(latent, len(mean)))
        self.register_buffer("mean", mean.float().clone())
        self.register_buffer("spread", sd.float().clamp(min=LEAST_SPREAD))

    @property
    def width(self) -> int:
        """Coordinates that the flow moves, D + S."""
        return self.latent + self.n_sizes

    def fit(self, whitening: Whitening, latents: torch.Tensor, log_sizes: torch.Tensor) -> None:
        """Set the map from the training cells' latents (N, D), as encoded, and log l (N, S); float64.

        Raises ValueError where a log l is not finite.
        """
        if not self.n_sizes:
            return
        if not torch.isfinite(log_sizes).all():
            raise ValueError("a library size of the training cells is zero: its logarithm is not finite.")
        mean, covariance = mean_and_covariance(latents, log_sizes)
        to_white, d = whitening.to_white.double().to(mean.device), self.latent
        within = to_white.T @ covariance[:d, :d] @ to_white
        across = to_white.T @ covariance[:d, d:]
        ridge = RIDGE * within.diagonal().mean().clamp(min=1e-12)
        slope = torch.linalg.solve(within + ridge * torch.eye(d).to(within), across)
        left = covariance[d:, d:] - slope.T @ across - across.T @ slope + slope.T @ within @ slope
        centre = (mean[:d] - whitening.mean.to(mean)) @ to_white
        self.slope.copy_(slope)
        self.mean.copy_(mean[d:] - centre @ slope)
        self.spread.copy_(left.diagonal().clamp(min=0).sqrt().clamp(min=LEAST_SPREAD))

    def join(self, white: torch.Tensor, log_sizes: torch.Tensor) -> torch.Tensor:
        """What the flow moves (B, D + S) of whitened latents (B, D) and log l (B, S)."""
        if not self.n_sizes:
            return white
        return torch.cat([white, (log_sizes - self.mean - white @ self.slope) / self.spread], dim=1)

    def part(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse of ``join``: whitened latents (B, D) and log l (B, S)."""
        white, rest = state[:, : self.latent], state[:, self.latent :]
        return white, self.mean + white @ self.slope + rest * self.spread
