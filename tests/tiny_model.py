"""A CFGen with random weights, small enough to draw hundreds of cells in a moment."""

from pathlib import Path

import numpy as np
import torch

from cfgen_scale.autoencoder import AutoencoderConfig
from cfgen_scale.labels import LabelFrequencies
from cfgen_scale.model import CFGen
from cfgen_scale.model_config import ModelConfig
from cfgen_scale.ode import OdeConfig
from cfgen_scale.size_factors import SizeFactors
from cfgen_scale.types import AtlasSchema, Covariate, Modality
from cfgen_scale.velocity import VelocityConfig

GENES = tuple(f"gene_{i}" for i in range(40))
SCHEMA = AtlasSchema(
    (Modality("rna", "negative_binomial", GENES),),
    (Covariate("cell_type", ("B", "NK", "T")), Covariate("donor", ("d1", "d2"))),
)
PROTEINS = tuple(f"protein_{i}" for i in range(7))
PEAKS = tuple(f"peak_{i}" for i in range(30))
TWO_MODALITIES = AtlasSchema(
    (*SCHEMA.modalities, Modality("atac", "poisson", PEAKS)),
    SCHEMA.covariates,
)
THREE_MODALITIES = AtlasSchema(
    (
        *SCHEMA.modalities,
        Modality("protein", "negative_binomial", PROTEINS),
        Modality("atac", "bernoulli", PEAKS),
    ),
    SCHEMA.covariates,
)
# B and T cells of both donors, NK cells of d2 alone.
JOINT_LABELS = [((0, 0), 30), ((0, 1), 10), ((1, 1), 20), ((2, 0), 20), ((2, 1), 20)]


def save_tiny_model(
    path: Path, *, weights_seed: int = 0, schema: AtlasSchema = SCHEMA, theta_by: str | None = None
) -> Path:
    """Write the model; another ``weights_seed`` is another model of the same schema. With ``theta_by`` the
    levels have thetas that are far from one another."""
    counted = len(schema.counted)
    with torch.random.fork_rng():
        torch.manual_seed(weights_seed)
        model = CFGen(
            ModelConfig(
                AutoencoderConfig(latent=6, hidden=(16,), theta_by=theta_by),
                VelocityConfig(width=16, blocks=1, embedding=16),
                ode=OdeConfig(steps=2),
            ),
            schema,
            size_factors=SizeFactors(
                (),
                torch.full((counted, 1), 5.0),
                torch.full((counted, 1), 0.3),
                torch.tensor([[4.0, 6.0]] * counted),
            ),
            frequencies=LabelFrequencies.of(JOINT_LABELS, 2),
            feature_totals=[_totals(modality) for modality in schema.modalities],
        )
        for name, parameter in model.named_parameters():
            if theta_by and name.endswith("log_theta"):
                parameter.data.copy_(3 * torch.randn(parameter.shape))
    return model.save(path)


def _totals(modality: Modality) -> torch.Tensor:
    """Of binarised features at most the 100 cells of JOINT_LABELS."""
    most = 90 if modality.likelihood == "bernoulli" else 1000
    return torch.from_numpy(np.geomspace(1, most, len(modality.features))).float()
