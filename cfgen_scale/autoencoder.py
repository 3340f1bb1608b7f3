"""The autoencoder of counts: log1p -> latent -> parameters of the counts' distribution (METHOD 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.sparse import csr_matrix
from torch import nn

from .aligned_linear import AlignedLinear
from .counts import SparseCounts
from .counts_layer import CountsLinear
from .drawing import Distribution, draw_decoded
from .layers import MLP
from .likelihoods import negative_binomial_log_prob
from .types import AtlasSchema

LOG_THETA_RANGE = (-7.0, 12.0)


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of the autoencoder.

    latent          D, dimensions of the latent shared by all modalities
    hidden          hidden units of each modality's encoder, in order; its decoder mirrors them
    theta_by        attribute whose levels have a dispersion each per gene, or None: one theta per gene
    initial_theta   inverse dispersion that every gene starts from
    """

    latent: int = 50
    hidden: tuple[int, ...] = (512, 256)
    theta_by: str | None = None
    initial_theta: float = 5.0


class Decoder(nn.Module):
    """Latent (B, D) -> log mean (B, G) and log theta, of one modality with NB counts (Eq. 5).

    log mu = log l + log_softmax(h(z)); the last bias starts at the log share of each gene in all counts.
    """

    log_theta: nn.Parameter

    def __init__(
        self, sizes: Sequence[int], *, feature_totals: torch.Tensor, n_levels: int | None, theta: float
    ) -> None:
        super().__init__()
        self.network = MLP(sizes, last=AlignedLinear)
        share = (feature_totals + 1.0) / (feature_totals + 1.0).sum()
        last = self.network.layers[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias.copy_(share.log())
            last.weight.mul_(0.1)
        shape = (sizes[-1],) if n_levels is None else (n_levels, sizes[-1])
        self.log_theta = nn.Parameter(torch.full(shape, float(theta)).log())

    def forward(
        self, z: torch.Tensor, log_size_factor: torch.Tensor, levels: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        log_mean = torch.log_softmax(self.network(z).float(), dim=1) + log_size_factor[:, None]
        table, rows = self.theta_table(levels)
        return log_mean, table if rows is None else table[rows]

    def log_prob(self, counts: SparseCounts, z: torch.Tensor, levels: torch.Tensor | None) -> torch.Tensor:
        """Log-probability (B,) of counts whose library sizes are their own totals."""
        log_theta, rows = self.theta_table(levels)
        log_size_factor = counts.totals().log()
        return negative_binomial_log_prob(counts, self.network(z), log_size_factor, log_theta, rows)

    @torch.no_grad()
    def sample(
        self,
        z: torch.Tensor,
        log_size_factor: torch.Tensor,
        levels: torch.Tensor | None,
        keys: torch.Tensor,
    ) -> csr_matrix:
        """Counts (B, G) int32 drawn from what ``forward`` gives, in one with its last layer."""
        log_theta, rows = self.theta_table(levels)
        theta = torch.atleast_2d(log_theta).double().exp().cpu().numpy()
        distribution = Distribution("negative_binomial", theta, None if rows is None else rows.cpu().numpy())
        *body, last = self.network.layers
        for layer in body:
            z = layer(z)
        assert isinstance(last, nn.Linear)
        return draw_decoded(z, last, log_size_factor, keys, distribution)

    def theta_table(self, levels: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """log theta (G,), or that of every level and of none (L + 1, G) and each cell's row in it (B,)."""
        log_theta = self.log_theta.clamp(*LOG_THETA_RANGE)
        if levels is None:
            return log_theta, None
        return torch.cat([log_theta, log_theta.mean(0, keepdim=True)]), levels % (len(log_theta) + 1)


class Autoencoder(nn.Module):
    """Encoders and decoders of every modality of the schema around one latent.

    Each modality has an encoder; with several, their outputs are concatenated into one shared linear
    layer (paper C.1). There is no KL term: it is an autoencoder, trained on the likelihood of raw counts.
    """

    def __init__(
        self, config: AutoencoderConfig, schema: AtlasSchema, feature_totals: Sequence[torch.Tensor]
    ) -> None:
        super().__init__()
        self.config = config
        self.names = tuple(m.name for m in schema.modalities)
        self.theta_attribute = None
        n_levels = None
        if config.theta_by is not None:
            self.theta_attribute = schema.covariate_index(config.theta_by)
            n_levels = len(schema.covariates[self.theta_attribute].categories)
        inner = list(config.hidden)
        several = len(schema.modalities) > 1
        top = inner[-1] if several else config.latent
        self.encoders = nn.ModuleDict()
        self.decoders = nn.ModuleDict()
        for modality, totals in zip(schema.modalities, feature_totals, strict=True):
            n_features = len(modality.features)
            body = inner[:-1] if several else inner
            self.encoders[modality.name] = MLP([n_features, *body, top], first=CountsLinear)
            self.decoders[modality.name] = Decoder(
                [config.latent, *reversed(inner), n_features],
                feature_totals=totals,
                n_levels=n_levels,
                theta=config.initial_theta,
            )
        self.joint = nn.Linear(top * len(self.names), config.latent) if several else nn.Identity()

    def encode(self, counts: Sequence[SparseCounts]) -> torch.Tensor:
        """Latent (B, D) float32 of raw counts, one entry per modality."""
        hidden = [self.encoders[name](c) for name, c in zip(self.names, counts, strict=True)]
        return self.joint(torch.cat(hidden, dim=1)).float()

    def decode(
        self, z: torch.Tensor, log_size_factor: torch.Tensor, labels: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(log mean (B, G), log theta (G,) or (B, G)) per modality; log size factors (B, S).

        With theta per level, a cell whose level is not told (-1) has the geometric mean of the levels.
        """
        levels = self._levels(labels)
        return [self.decoders[name](z, log_size_factor[:, s], levels) for s, name in enumerate(self.names)]

    def forward(self, counts: Sequence[SparseCounts], labels: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of each cell's raw counts, summed over features and modalities: (B,)."""
        z, levels = self.encode(counts), self._levels(labels)
        log_prob = [
            self._decoder(name).log_prob(c, z, levels) for name, c in zip(self.names, counts, strict=True)
        ]
        return -torch.stack(log_prob).sum(0)

    def _decoder(self, name: str) -> Decoder:
        decoder = self.decoders[name]
        assert isinstance(decoder, Decoder)
        return decoder

    def _levels(self, labels: torch.Tensor) -> torch.Tensor | None:
        return None if self.theta_attribute is None else labels[:, self.theta_attribute]

    @torch.no_grad()
    def sample(
        self,
        z: torch.Tensor,
        log_size_factor: torch.Tensor,
        labels: torch.Tensor,
        keys: Sequence[torch.Tensor],
    ) -> list[csr_matrix]:
        """Counts (B, G) int32 per modality drawn from the decoded distributions.

        ``keys`` (B,) int64 are 64 random bits a cell, for each modality.
        """
        levels = self._levels(labels)
        return [
            self._decoder(name).sample(z, log_size_factor[:, s], levels, keys[s])
            for s, name in enumerate(self.names)
        ]
