"""CFGen: autoencoder + flow + size factors + labels + schema, in one self-describing directory."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import nn

from .autoencoder import Autoencoder
from .counts import SparseCounts
from .generation import decode_cells, draw_latents
from .guidance import guided_field
from .labels import LabelFrequencies
from .model_config import ModelConfig
from .model_files import load_model, save_model
from .ode import OdeConfig, integrate
from .size_factors import SizeFactors
from .sizes_beside import SizesBeside
from .types import AtlasSchema, Condition, GeneratedCells, IntArray, Modality, SchemaError
from .velocity import Velocity
from .whitening import Whitening


class CFGen(nn.Module):
    """p(x, z, l, y) = p(x | z, l) p(z, l | y) p(y) for every modality of the schema; with log-normal sizes
    p(x | z, l) p(z | y, l) p(l) p(y), as in the paper (Eq. 5).

    ``provenance`` is free JSON that travels with the model (data digest, training settings, versions).
    """

    def __init__(
        self,
        config: ModelConfig,
        schema: AtlasSchema,
        *,
        size_factors: SizeFactors,
        frequencies: LabelFrequencies,
        feature_totals: Sequence[torch.Tensor],
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.schema = config, schema
        self.size_factors, self.frequencies = size_factors, frequencies
        self.provenance = dict(provenance or {})
        n_cells = int(frequencies.cells.sum())
        self.autoencoder = Autoencoder(config.autoencoder, schema, feature_totals, n_cells=n_cells)
        self.whitening = Whitening(config.autoencoder.latent, config.whitening)
        n_sizes = len(schema.counted) if config.size_factors == "flow" else 0
        overall = (moment[:n_sizes, 0] for moment in (size_factors.mean, size_factors.sd))
        self.sizes_beside = SizesBeside(config.autoencoder.latent, *overall)
        self.velocity = Velocity(
            config.velocity,
            latent=self.sizes_beside.width,
            n_categories=[len(c.categories) for c in schema.covariates],
            log_size_range=size_factors.log_range,
        )
        self.digest = "unsaved"

    @property
    def device(self) -> torch.device:
        return self.whitening.mean.device

    # ------------------------------------------------------------------ encoding and transport

    @torch.no_grad()
    def encode(
        self,
        counts: Sequence[csr_matrix],
        *,
        features: Sequence[Sequence[str]] | None = None,
        batch_cells: int = 2048,
    ) -> torch.Tensor:
        """Whitened latents (n, D) float32 of raw counts, one CSR matrix (n, G) per modality.

        ``features`` are the names of the columns of each matrix; given, they must be the schema's, in order.
        Raises SchemaError naming the first that differs, or for matrices of another shape.
        """
        self._require_features(counts, features)
        n = counts[0].shape[0]
        encoded = [
            self.autoencoder.encode(
                [SparseCounts.from_csr(c[i : i + batch_cells], self.device) for c in counts]
            )
            for i in range(0, n, batch_cells)
        ]
        return self.whitening.whiten(torch.cat(encoded))

    def _require_features(
        self, counts: Sequence[csr_matrix], features: Sequence[Sequence[str]] | None
    ) -> None:
        given = features or [m.features for m in self.schema.modalities]
        modalities = tuple(
            Modality(m.name, m.likelihood, tuple(names))
            for m, names in zip(self.schema.modalities, given, strict=True)
        )
        cells = AtlasSchema(modalities, self.schema.covariates)
        self.schema.require_same(cells, this="the model", that="the cells")
        for matrix, modality in zip(counts, self.schema.modalities, strict=True):
            if matrix.shape[1] != len(modality.features):
                raise SchemaError(
                    f"the model has {len(modality.features)} features of {modality.name!r}, the cells have "
                    f"{matrix.shape[1]}. Give the counts of the model's features, in their order."
                )

    @torch.no_grad()
    def transport(
        self,
        z: torch.Tensor,
        condition: Condition,
        *,
        guidance: Sequence[float],
        backwards: bool = False,
        ode: OdeConfig | None = None,
    ) -> torch.Tensor:
        """Follow the guided field from noise to states of the flow, or backwards: (B, D + S) -> (B, D + S).

        ``model.sizes_beside`` makes states of whitened latents and library sizes, and parts them; where sizes
        are log-normal, S is 0 and states are whitened latents.
        """
        start, end = (1.0, 0.0) if backwards else (0.0, 1.0)
        told, ode = self.config.velocity.attributes_told, ode or self.config.ode
        interval = (ode.guide_from, ode.guide_to)
        flow = guided_field(self.velocity, condition, guidance, told=told, interval=interval)
        return integrate(flow, z, start=start, end=end, config=ode)

    # ------------------------------------------------------------------ generation

    def draw_labels(
        self,
        n: int,
        told: Mapping[str, str],
        untold: Sequence[str] = (),
        *,
        seed: int,
        index: int = 0,
        first: int = 0,
    ) -> IntArray:
        """Labels (n, K): told, untold (-1), the rest drawn as they occur together (LabelFrequencies.draw)."""
        return self.frequencies.draw(
            n, self.schema, told=told, untold=untold, seed=seed, index=index, first=first
        )

    def generate_cells(
        self,
        labels: IntArray,
        *,
        guidance: Sequence[float],
        seed: int,
        index: int = 0,
        ode: OdeConfig | None = None,
        log_size_factor: NDArray[np.float32] | None = None,
    ) -> GeneratedCells:
        """One cell for each row of ``labels`` (B, K) (Algorithm 2): `draw_latents`, then `decode_cells`."""
        cells = self.draw_latents(
            labels, guidance=guidance, seed=seed, index=index, ode=ode, log_size_factor=log_size_factor
        )
        return self.decode_cells(cells, seed=seed, index=index)

    def draw_latents(
        self,
        labels: IntArray,
        *,
        guidance: Sequence[float],
        seed: int,
        index: int = 0,
        ode: OdeConfig | None = None,
        log_size_factor: NDArray[np.float32] | None = None,
    ) -> GeneratedCells:
        """Latents of one cell for each row of ``labels`` (B, K), without counts; draws keyed by (seed, index)
        and a cell's place among the B.

        guidance          weight of each attribute (K,)
        log_size_factor   (B, S) to use instead of those that the model draws; latents are not drawn anew
                          for them unless the flow is told sizes
        """
        return draw_latents(
            self, labels, guidance=guidance, seed=seed, index=index, ode=ode, log_size_factor=log_size_factor
        )

    def decode_cells(self, cells: GeneratedCells, *, seed: int, index: int = 0) -> GeneratedCells:
        """Counts of the B cells of one `draw_latents` call, at once or of its stored float32 latents at any
        later time: bitwise those of `generate_cells` with this seed and index, on a device of the same kind.

        Where theta is per level of an attribute and that label is -1, its level is drawn first from its
        proportions. Raises ValueError naming the cell if a mean is not finite or above 2^30.
        """
        return decode_cells(self, cells, seed=seed, index=index)

    def weights_of(self, guidance: Mapping[str, float] | None) -> list[float]:
        """Guidance weights (K,) in the schema's order; 1 where not named. Raises for unknown names."""
        weights = [1.0] * len(self.schema.covariates)
        for name, weight in (guidance or {}).items():
            if not math.isfinite(weight):
                raise ValueError(f"the guidance weight of {name!r} must be a finite number, not {weight}.")
            weights[self.schema.covariate_index(name)] = float(weight)
        return weights

    def generate(
        self,
        n_cells: int,
        told: Mapping[str, str] | None = None,
        *,
        untold: Sequence[str] = (),
        guidance: Mapping[str, float] | None = None,
        seed: int = 0,
        ode: OdeConfig | None = None,
        batch_cells: int = 1024,
    ) -> Any:
        """An AnnData of ``n_cells`` new cells: X raw counts (n, G) CSR int32, obs with the attributes told.
        Of several modalities a dict of one for each, which ``mudata.MuData`` takes.

        ``told`` maps attributes to a category each; ``untold`` names attributes left untold; the others are
        drawn as they occur together in the training cells. ``guidance`` maps attributes to weights (1
        where not named). obsm["X_cfgen"] holds the latents. For atlases use ``cfgen-scale generate``.
        """
        if n_cells < 1:
            raise ValueError(f"n_cells must be at least 1, not {n_cells}.")
        from .annotate import cells_to_anndata

        weights = self.weights_of(guidance)
        made = list(self._batches(n_cells, told or {}, untold, weights, seed, ode, batch_cells))
        return cells_to_anndata(made, self.schema)

    def _batches(
        self,
        n_cells: int,
        told: Mapping[str, str],
        untold: Sequence[str],
        weights: Sequence[float],
        seed: int,
        ode: OdeConfig | None,
        batch_cells: int,
    ) -> Iterator[GeneratedCells]:
        for index, first in enumerate(range(0, n_cells, batch_cells)):
            n = min(batch_cells, n_cells - first)
            labels = self.draw_labels(n, told, untold, seed=seed, index=index)
            yield self.generate_cells(labels, guidance=weights, seed=seed, index=index, ode=ode)

    # ------------------------------------------------------------------ files

    def save(self, path: str | Path) -> Path:
        """Write the model to the directory ``path``: `model_files.save_model`."""
        return save_model(self, Path(path))

    @staticmethod
    def load(path: str | Path, device: torch.device | str = "cpu") -> "CFGen":
        """Read a model written by ``save``: `model_files.load_model`."""
        return load_model(Path(path), device)
