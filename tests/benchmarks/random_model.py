"""A trained velocity before a decoder of random weights, to write cells like those of an atlas.

Genes are as unequal as those of the simulated atlas (simulated_atlas.py), one of them as loud as MALAT1, and
library sizes are such that the share of non-zeros is the one asked for. The decoder has the default sizes.
The velocity and its attributes are those of a trained run: dopri5 at 1e-5 takes 20 evaluations of a field of
random weights and hundreds of a trained one, so that the time of a field that nobody trained says nothing. It
is integrated as this version does by default.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cfgen_scale.autoencoder import AutoencoderConfig
from cfgen_scale.labels import LabelFrequencies
from cfgen_scale.model import CFGen
from cfgen_scale.model_config import ModelConfig
from cfgen_scale.size_factors import SizeFactors
from cfgen_scale.types import AtlasSchema, Covariate, Modality
from tests.benchmarks.simulated_atlas import LOG_POPULARITY_SD, TAIL
from tests.benchmarks.simulated_counts import LOG_LIBRARY_SD, LOUDEST_SHARE, TYPES

NONZERO_SHARE = 0.05


def gene_shares(genes: int) -> NDArray[np.float64]:
    """(G,) of all molecules, summing to 1."""
    popularity = np.exp(np.random.default_rng(0).normal(0, LOG_POPULARITY_SD, genes))
    popularity[genes // 2] = 0
    popularity *= (1 - LOUDEST_SHARE) / popularity.sum()
    popularity[genes // 2] = LOUDEST_SHARE
    return popularity


def library_for(shares: NDArray[np.float64], theta: float, nonzero_share: float) -> float:
    """Counts of a cell in which ``nonzero_share`` of the genes are expected to be above 0."""
    low, high = 1.0, 1e7
    while high / low > 1.0001:
        middle = np.sqrt(low * high)
        reached = np.mean(1 - (theta / (theta + middle * shares)) ** theta)
        low, high = (middle, high) if reached < nonzero_share else (low, middle)
    return float(low)


def save_random_model(
    path: Path, run: Path | None, *, genes: int, nonzero_share: float = NONZERO_SHARE
) -> Path:
    """Write the model, unless it is there; ``run`` is a trained run or a model directory. None: the velocity
    is random too, as will do where it takes fixed steps."""
    if path.exists():
        return path
    trained = None if run is None else CFGen.load(run / "model" if (run / "model").is_dir() else run)
    config, covariates, frequencies = _told(trained)
    shares = gene_shares(genes)
    log_library = np.log(library_for(shares, config.autoencoder.initial_theta, nonzero_share))
    log_range = [log_library - 3 * LOG_LIBRARY_SD, log_library + 3 * LOG_LIBRARY_SD]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CFGen(
            config,
            AtlasSchema(
                (Modality("rna", "negative_binomial", tuple(f"gene {g}" for g in range(genes))),), covariates
            ),
            size_factors=SizeFactors(
                (),
                torch.tensor([[log_library]]),
                torch.tensor([[LOG_LIBRARY_SD]]),
                torch.tensor([log_range]),
            ),
            frequencies=frequencies,
            feature_totals=[torch.from_numpy(shares * 1e9)],
        )
    if trained is not None:
        model.velocity.load_state_dict(trained.velocity.state_dict())
    return model.save(path)


def _told(trained: CFGen | None) -> tuple[ModelConfig, tuple[Covariate, ...], LabelFrequencies]:
    """Sizes, attributes and how often they occur: of a trained model, or 50 types in a long tail."""
    if trained is not None:
        shape = AutoencoderConfig(latent=trained.config.autoencoder.latent)
        config = ModelConfig(shape, trained.config.velocity, trained.config.size_factors)
        return config, trained.schema.covariates, trained.frequencies
    types = Covariate("cell_type", tuple(f"type {t:02d}" for t in range(TYPES)))
    cells = np.ceil(1e6 * np.arange(1, TYPES + 1) ** -TAIL).astype(int)
    return ModelConfig(), (types,), LabelFrequencies.of([((t,), int(n)) for t, n in enumerate(cells)], 1)
