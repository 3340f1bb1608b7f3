"""Decoders: latent -> the distribution of one modality's counts (METHOD 2, paper Eq. 5 and 6)."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from scipy.sparse import csr_matrix
from torch import nn

from .aligned_linear import AlignedLinear
from .counts import SparseCounts
from .drawing import Distribution, Thetas, draw_decoded
from .layers import MLP, Dropout
from .likelihoods import negative_binomial_log_prob
from .peak_likelihoods import bernoulli_log_prob, poisson_log_prob
from .types import LikelihoodKind, Modality

LOG_THETA_RANGE = (-7.0, 12.0)
# What a decoder says of B cells: log means (B, G), or logits of a binarised modality; log theta, or None.
Decoded = tuple[torch.Tensor, torch.Tensor | None]


class Decoder(nn.Module):
    """Latent (B, D) -> logits (B, G) of one modality, whose ``likelihood`` says what these mean.

    The last bias starts at ``bias`` (G,), and its weights near zero.
    """

    likelihood: ClassVar[LikelihoodKind]

    def __init__(self, sizes: Sequence[int], *, bias: torch.Tensor) -> None:
        super().__init__()
        self.network = MLP(sizes, last=AlignedLinear)
        last = self.network.layers[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias.copy_(bias)
            last.weight.mul_(0.1)

    def forward(
        self, z: torch.Tensor, log_size_factor: torch.Tensor | None, levels: torch.Tensor | None
    ) -> Decoded:
        """The distribution of cells with latents (B, D), log l (B,) and levels of theta (B,)."""
        raise NotImplementedError

    def log_prob(
        self,
        counts: SparseCounts,
        z: torch.Tensor,
        levels: torch.Tensor | None,
        dropout: Dropout | None = None,
    ) -> torch.Tensor:
        """Log-probability (B,) of counts whose library sizes are their own totals, with ``dropout`` of hidden
        units."""
        raise NotImplementedError

    def distribution(self, levels: torch.Tensor | None) -> Distribution:
        """What is drawn, beside its means."""
        return Distribution(self.likelihood)

    @torch.no_grad()
    def sample(
        self,
        z: torch.Tensor,
        log_size_factor: torch.Tensor | None,
        levels: torch.Tensor | None,
        keys: torch.Tensor,
    ) -> csr_matrix:
        """Counts (B, G) int32 drawn from what ``forward`` gives, in one with its last layer."""
        *body, last = self.network.layers
        for layer in body:
            z = layer(z)
        assert isinstance(last, nn.Linear)
        log_l = z.new_zeros(len(z)) if log_size_factor is None else log_size_factor
        return draw_decoded(z, last, log_l, keys, self.distribution(levels))

    def _log_mean(self, z: torch.Tensor, log_size_factor: torch.Tensor | None) -> torch.Tensor:
        """log mu = log l + log_softmax(h(z)), (B, G)."""
        assert log_size_factor is not None
        return torch.log_softmax(self.network(z).float(), dim=1) + log_size_factor[:, None]


class NegativeBinomialDecoder(Decoder):
    """Means l * softmax(h(z)) and an inverse dispersion theta for each gene, or gene and level (Eq. 5)."""

    likelihood = "negative_binomial"
    log_theta: nn.Parameter

    def __init__(
        self, sizes: Sequence[int], *, bias: torch.Tensor, n_levels: int | None, theta: float
    ) -> None:
        super().__init__(sizes, bias=bias)
        shape = (sizes[-1],) if n_levels is None else (n_levels, sizes[-1])
        self.log_theta = nn.Parameter(torch.full(shape, float(theta)).log())
        self._drawn_with: tuple[torch.Tensor, Thetas] | None = None

    def forward(
        self, z: torch.Tensor, log_size_factor: torch.Tensor | None, levels: torch.Tensor | None
    ) -> Decoded:
        table, rows = self.theta_table(levels)
        return self._log_mean(z, log_size_factor), table if rows is None else table[rows]

    def log_prob(
        self,
        counts: SparseCounts,
        z: torch.Tensor,
        levels: torch.Tensor | None,
        dropout: Dropout | None = None,
    ) -> torch.Tensor:
        log_theta, rows = self.theta_table(levels)
        logits = self.network(z, dropout)
        return negative_binomial_log_prob(counts, logits, counts.totals().log(), log_theta, rows)

    @torch.no_grad()
    def distribution(self, levels: torch.Tensor | None) -> Distribution:
        log_theta, rows = self.theta_table(levels)
        return Distribution(
            self.likelihood, self._thetas(log_theta), None if rows is None else rows.cpu().numpy()
        )

    def _thetas(self, log_theta: torch.Tensor) -> Thetas:
        """Those that the last draws were made with, unless training has changed them since."""
        if self._drawn_with is not None:
            before, thetas = self._drawn_with
            if before.device == log_theta.device and torch.equal(before, log_theta):
                return thetas
        thetas = Thetas(torch.atleast_2d(log_theta).double().exp().cpu().numpy())
        self._drawn_with = log_theta, thetas
        return thetas

    def theta_table(self, levels: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """log theta (G,), or that of every level and of none (L + 1, G) and each cell's row in it (B,)."""
        log_theta = self.log_theta.clamp(*LOG_THETA_RANGE)
        if self.log_theta.ndim == 1:
            return log_theta, None
        assert levels is not None
        return torch.cat([log_theta, log_theta.mean(0, keepdim=True)]), levels % (len(log_theta) + 1)


class PoissonDecoder(Decoder):
    """Means l * softmax(h(z)): fragments of peaks that are not binarised (METHOD 2)."""

    likelihood = "poisson"

    def forward(
        self, z: torch.Tensor, log_size_factor: torch.Tensor | None, levels: torch.Tensor | None
    ) -> Decoded:
        return self._log_mean(z, log_size_factor), None

    def log_prob(
        self,
        counts: SparseCounts,
        z: torch.Tensor,
        levels: torch.Tensor | None,
        dropout: Dropout | None = None,
    ) -> torch.Tensor:
        return poisson_log_prob(counts, self.network(z, dropout), counts.totals().log())


class BernoulliDecoder(Decoder):
    """Probabilities sigmoid(h(z)) that a peak is open, whatever the size factors (Eq. 6)."""

    likelihood = "bernoulli"

    def forward(
        self, z: torch.Tensor, log_size_factor: torch.Tensor | None, levels: torch.Tensor | None
    ) -> Decoded:
        return self.network(z).float(), None

    def log_prob(
        self,
        counts: SparseCounts,
        z: torch.Tensor,
        levels: torch.Tensor | None,
        dropout: Dropout | None = None,
    ) -> torch.Tensor:
        return bernoulli_log_prob(counts, self.network(z, dropout))


def decoder_of(
    modality: Modality,
    sizes: Sequence[int],
    *,
    feature_totals: torch.Tensor,
    n_cells: int | None,
    n_levels: int | None,
    theta: float,
) -> Decoder:
    """The decoder of a modality, which starts at the mean of the training cells.

    ``feature_totals`` (G,) are the counts of each feature over the ``n_cells`` training cells, a number that
    binarised modalities alone need. Raises ValueError where it is missing or less than one of the totals.
    """
    match modality.likelihood:
        case "negative_binomial":
            bias = _log_share(feature_totals)
            return NegativeBinomialDecoder(sizes, bias=bias, n_levels=n_levels, theta=theta)
        case "poisson":
            return PoissonDecoder(sizes, bias=_log_share(feature_totals))
        case "bernoulli":
            if n_cells is None or (feature_totals > n_cells).any():
                raise ValueError(
                    f"{modality.name!r} is binarised: its feature totals are numbers of training cells, of "
                    f"which there are {n_cells}. Prepare the atlas with this likelihood."
                )
            return BernoulliDecoder(sizes, bias=torch.logit((feature_totals + 0.5) / (n_cells + 1)))


def _log_share(feature_totals: torch.Tensor) -> torch.Tensor:
    """Log share of each feature in all counts, each counted once more than it was."""
    return ((feature_totals + 1.0) / (feature_totals + 1.0).sum()).log()
