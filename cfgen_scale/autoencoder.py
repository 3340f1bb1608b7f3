"""The autoencoder of counts: log1p -> latent -> parameters of the counts' distribution (METHOD 3)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from scipy.sparse import csr_matrix
from torch import nn

from .counts import SparseCounts
from .counts_layer import CountsLinear
from .decoders import Decoded, Decoder, decoder_of
from .layers import MLP, Dropout
from .perturbation import Perturbation
from .types import AtlasSchema, LikelihoodKind, SchemaError

NORMALISED_TOTAL = 1e4
LAST = -1  # the number of the layer behind those of an MLP


@dataclass(frozen=True)
class ModalityConfig:
    """What one modality has otherwise than the others.

    hidden            hidden units of its encoder, in order; None: those of the autoencoder
    latent            its dimensions of concatenated latents; None: an equal part of what the others leave
    theta_per_level   whether ``theta_by`` is about it too; if not, it has one theta per feature
    """

    hidden: tuple[int, ...] | None = None
    latent: int | None = None
    theta_per_level: bool = True


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of the autoencoder.

    latent          D, dimensions of the latent, of all modalities together
    hidden          hidden units of each modality's encoder, in order; its decoder mirrors them
    latents         of several modalities: "joint", one linear layer makes one latent of all encoders' units,
                    which every decoder reads (paper C.1); or "concatenated", each modality has a latent of
                    its own, which its decoder alone reads, and the flow has them one behind the other
    modalities      what is otherwise in a modality, by its name
    encoder_input   what encoders hear of counts: log1p of the "counts" themselves; of the "normalised" ones,
                    scaled to 10,000 a cell, which leave the library size unheard; or "expressed": beside
                    log1p of its count each expressed gene is heard by a vector of its own. Binarised counts
                    are never scaled
    theta_by        attribute whose levels have a dispersion each per gene, or None: one theta per gene
    initial_theta   inverse dispersion that every gene starts from
    latent_noise    p(x | z) is the mean over latents about z, whose dimensions are normal with a standard
                    deviation of so many times the root mean square of z's D. In training it keeps the encoder
                    from learning its cells by heart; cells are drawn with it, as the decoder learned them:
                    without it they vary less than real ones. Validation, encoding and means do without
    """

    latent: int = 50
    hidden: tuple[int, ...] = (512, 256)
    latents: Literal["joint", "concatenated"] = "joint"
    modalities: dict[str, ModalityConfig] = field(default_factory=dict)
    encoder_input: Literal["counts", "normalised", "expressed"] = "counts"
    theta_by: str | None = None
    initial_theta: float = 5.0
    latent_noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.latent_noise < math.inf:
            raise ValueError(f"latent_noise must not be negative, not {self.latent_noise}.")

    def of(self, name: str) -> ModalityConfig:
        """What is said of a modality."""
        return self.modalities.get(name, ModalityConfig())

    def hidden_of(self, name: str) -> tuple[int, ...]:
        """Hidden units of the encoder of a modality."""
        own = self.of(name).hidden
        return self.hidden if own is None else own

    def latent_parts(self, schema: AtlasSchema) -> tuple[slice, ...]:
        """The columns of the latent that belong to each modality: all of them, or its part.

        Raises SchemaError for a modality in ``modalities`` that the schema has not, ValueError where the
        ``latent`` cannot be shared out.
        """
        names = [modality.name for modality in schema.modalities]
        for name in self.modalities:
            if name not in names:
                raise SchemaError(f"there is no modality {name!r}. Those of the cells: {', '.join(names)}.")
            if self.latents == "joint" and self.of(name).latent is not None:
                raise ValueError(
                    f"{name!r} is given a latent of its own, and latents are joint: set latents=concatenated."
                )
        if self.latents == "joint":
            return (slice(0, self.latent),) * len(names)
        sizes = self._latent_sizes(names)
        ends = [sum(sizes[: m + 1]) for m in range(len(sizes))]
        return tuple(slice(end - size, end) for size, end in zip(sizes, ends, strict=True))

    def _latent_sizes(self, names: Sequence[str]) -> list[int]:
        """Dimensions of each modality: as it says itself, or as equal as can be of those left."""
        given = {name: size for name in names if (size := self.of(name).latent) is not None}
        others = [name for name in names if name not in given]
        left = self.latent - sum(given.values())
        shares = {name: (left + i) // len(others) for i, name in enumerate(reversed(others))}
        sizes = [given.get(name, shares.get(name, 0)) for name in names]
        if min(sizes) < 1 or sum(sizes) != self.latent:
            parts = ", ".join(f"{name}: {size}" for name, size in given.items()) or "none"
            raise ValueError(
                f"a latent of {self.latent} dimensions cannot be shared out among {', '.join(names)} (given: "
                f"{parts}). Each modality needs one or more, and together they are the latent."
            )
        return sizes


class Autoencoder(nn.Module):
    """Encoders and decoders of every modality of the schema around one latent.

    There is no KL term: it is an autoencoder, trained on the likelihood of raw counts. ``n_cells`` is the
    number of training cells; it is needed where a modality is binarised.

    likelihoods     of each modality
    parts           columns of the latent that each modality's decoder reads
    size_columns    column of each modality in size factors (B, S); None: it has none
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        schema: AtlasSchema,
        feature_totals: Sequence[torch.Tensor],
        *,
        n_cells: int | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.names = tuple(m.name for m in schema.modalities)
        self.likelihoods: tuple[LikelihoodKind, ...] = tuple(m.likelihood for m in schema.modalities)
        self.parts = config.latent_parts(schema)
        columns = {modality.name: s for s, modality in enumerate(schema.counted)}
        self.size_columns = tuple(columns.get(name) for name in self.names)
        self.theta_attribute = None
        n_levels = None
        if config.theta_by is not None:
            self.theta_attribute = schema.covariate_index(config.theta_by)
            n_levels = len(schema.covariates[self.theta_attribute].categories)
        joint = len(self.names) > 1 and config.latents == "joint"
        self.encoders = nn.ModuleDict()
        self.decoders = nn.ModuleDict()
        for modality, part, totals in zip(schema.modalities, self.parts, feature_totals, strict=True):
            n_features, hidden = len(modality.features), config.hidden_of(modality.name)
            latent = part.stop - part.start
            first = partial(CountsLinear, identities=config.encoder_input == "expressed")
            self.encoders[modality.name] = _encoder([n_features, *hidden], None if joint else latent, first)
            self.decoders[modality.name] = decoder_of(
                modality,
                [latent, *reversed(hidden), n_features],
                feature_totals=totals,
                n_cells=n_cells,
                n_levels=n_levels if config.of(modality.name).theta_per_level else None,
                theta=config.initial_theta,
            )
        units = sum(config.hidden_of(name)[-1] for name in self.names) if joint else 0
        self.joint = nn.Linear(units, config.latent) if joint else nn.Identity()

    def encode(
        self, counts: Sequence[SparseCounts], perturbation: Perturbation | None = None
    ) -> torch.Tensor:
        """Latent (B, D) float32 of raw counts, one entry per modality; binarised ones are made so.

        ``perturbation`` is that of training, as far as it is about encoders.
        """
        hidden = []
        for name, kind, all_counts in zip(self.names, self.likelihoods, counts, strict=True):
            heard = all_counts if perturbation is None else perturbation.heard(all_counts, name)
            dropout = _dropout(perturbation, f"encoder of {name}")
            hidden.append(self.encoders[name](self._input(heard, kind), dropout))
        return self.joint(torch.cat(hidden, dim=1)).float()

    def _input(self, counts: SparseCounts, kind: LikelihoodKind) -> SparseCounts:
        if kind == "bernoulli":
            return counts.binarised()
        return counts.scaled_to(NORMALISED_TOTAL) if self.config.encoder_input == "normalised" else counts

    def decode(self, z: torch.Tensor, log_size_factor: torch.Tensor, labels: torch.Tensor) -> list[Decoded]:
        """Per modality, of log size factors (B, S): log mean (B, G) and log theta (G,) or (B, G), of Poisson
        counts log mean and None, of a binarised modality logits (B, G) and None.

        With theta per level, a cell whose level is not told (-1) has the geometric mean of the levels.
        """
        levels = self._levels(labels)
        return [
            self._decoder(name)(z[:, part], None if s is None else log_size_factor[:, s], levels)
            for name, part, s in zip(self.names, self.parts, self.size_columns, strict=True)
        ]

    def forward(
        self,
        counts: Sequence[SparseCounts],
        labels: torch.Tensor,
        perturbation: Perturbation | None = None,
    ) -> torch.Tensor:
        """Negative log-likelihood of each cell's raw counts, summed over features and modalities: (B,).

        ``perturbation`` disturbs what is heard and how it is decoded; the counts are all of them.
        """
        z, levels = self.encode(counts, perturbation), self._levels(labels)
        if perturbation is not None:
            z = perturbation.moved(z)
        log_prob = []
        for name, part, c in zip(self.names, self.parts, counts, strict=True):
            dropout = _dropout(perturbation, f"decoder of {name}")
            log_prob.append(self._decoder(name).log_prob(c, z[:, part], levels, dropout))
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
            self._decoder(name).sample(z[:, part], None if s is None else log_size_factor[:, s], levels, bits)
            for name, part, s, bits in zip(self.names, self.parts, self.size_columns, keys, strict=True)
        ]


def _dropout(perturbation: Perturbation | None, network: str) -> Dropout | None:
    return None if perturbation is None else perturbation.dropout_in(network)


class JointEncoder(nn.Sequential):
    """Counts -> hidden units of one modality, of which a layer behind makes the joint latent."""

    def __init__(self, sizes: Sequence[int], first: Callable[[int, int], nn.Module]) -> None:
        super().__init__(MLP(sizes, first=first), nn.LayerNorm(sizes[-1]), nn.ELU())

    def forward(self, counts: SparseCounts, dropout: Dropout | None = None) -> torch.Tensor:
        network, norm, activation = self
        units: torch.Tensor = activation(norm(network(counts, dropout)))
        return units if dropout is None else dropout(units, LAST)


def _encoder(sizes: Sequence[int], latent: int | None, first: Callable[[int, int], nn.Module]) -> nn.Module:
    """Counts -> latent, or where there is none of its own -> the last of the hidden units."""
    if latent is not None:
        return MLP([*sizes, latent], first=first)
    return JointEncoder(sizes, first)
