"""What disturbs the autoencoder in training, so that it does not learn its cells by heart (METHOD 8b).

The encoder hears some of a cell's molecules, hidden units are dropped, the latent is moved; the likelihood is
that of all counts. Every draw is a function of (seed, cells seen, position of the cell in the global batch):
neither a resume nor the number of workers changes it.
"""

import torch

from .counter_draws import CounterDraws
from .counts import SparseCounts
from .layers import Dropout
from .thinning import thinned


def about_latent(z: torch.Tensor, noise: float, draws: CounterDraws, positions: torch.Tensor) -> torch.Tensor:
    """A latent about each of z (B, D): normal, of ``noise`` times the root mean square of a cell's D.

    The latent has no scale of its own: the encoder would rid itself of a noise of fixed size by larger ones.
    """
    if not noise:
        return z
    size = (z.square().mean(1, keepdim=True) + 1e-12).sqrt()
    return z + noise * size * draws.normal("latent noise", positions, z.shape[1]).to(z.device)


class Perturbation:
    """Of the cells at ``positions`` (B,) int64 of a global batch, whose draws are ``draws``.

    dropout        share of hidden units dropped, in encoders and decoders; the others make up for them
    thinning       the encoder hears a share of a cell's molecules of a modality, which is uniform between
                   1 - thinning and 1
    latent_noise   of each dimension of the latent (`about_latent`)
    """

    def __init__(
        self,
        draws: CounterDraws,
        positions: torch.Tensor,
        *,
        dropout: float = 0.0,
        thinning: float = 0.0,
        latent_noise: float = 0.0,
    ) -> None:
        self.draws, self.positions = draws, positions
        self.dropout, self.thinning, self.latent_noise = dropout, thinning, latent_noise

    def heard(self, counts: SparseCounts, name: str) -> SparseCounts:
        """What the encoder of modality ``name`` hears of its counts (B, G)."""
        if not self.thinning:
            return counts
        share = 1 - self.thinning * self.draws.uniform(f"share of {name} kept", self.positions)
        return thinned(counts, share, self.draws, self.positions, f"thinning of {name}")

    def dropout_in(self, name: str) -> Dropout | None:
        """The dropout of the network that is called ``name``, or None."""
        if not self.dropout:
            return None

        def dropped(units: torch.Tensor, layer: int) -> torch.Tensor:
            width = units.shape[1]
            addresses = self.positions[:, None] * width + torch.arange(width, device=units.device)
            kept = self.draws.uniform(f"dropout in {name}, layer {layer}", addresses) >= self.dropout
            return units * (kept / (1 - self.dropout)).to(units.dtype)

        return dropped

    def moved(self, z: torch.Tensor) -> torch.Tensor:
        """The latent (B, D) with noise."""
        return about_latent(z, self.latent_noise, self.draws, self.positions)
