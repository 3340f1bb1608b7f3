"""A CFGen with random weights, small enough to draw hundreds of cells in a moment."""

from pathlib import Path

import numpy as np
import torch

from cfgen_scale.autoencoder import AutoencoderConfig
from cfgen_scale.labels import LabelFrequencies
from cfgen_scale.model import CFGen, ModelConfig
from cfgen_scale.ode import OdeConfig
from cfgen_scale.size_factors import SizeFactors
from cfgen_scale.types import AtlasSchema, Covariate, Modality
from cfgen_scale.velocity import VelocityConfig

GENES = tuple(f"gene_{i}" for i in range(40))
SCHEMA = AtlasSchema(
    (Modality("rna", "negative_binomial", GENES),),
    (Covariate("cell_type", ("B", "NK", "T")), Covariate("donor", ("d1", "d2"))),
)
# B and T cells of both donors, NK cells of d2 alone.
JOINT_LABELS = [((0, 0), 30), ((0, 1), 10), ((1, 1), 20), ((2, 0), 20), ((2, 1), 20)]


def save_tiny_model(path: Path, *, weights_seed: int = 0) -> Path:
    """Write the model; another ``weights_seed`` is another model of the same schema."""
    with torch.random.fork_rng():
        torch.manual_seed(weights_seed)
        model = CFGen(
            ModelConfig(
                AutoencoderConfig(latent=6, hidden=(16,)),
                VelocityConfig(width=16, blocks=1, embedding=16),
                ode=OdeConfig(steps=2),
            ),
            SCHEMA,
            size_factors=SizeFactors(
                (), torch.tensor([[5.0]]), torch.tensor([[0.3]]), torch.tensor([[4.0, 6.0]])
            ),
            frequencies=LabelFrequencies.of(JOINT_LABELS, 2),
            feature_totals=[torch.from_numpy(np.geomspace(1, 1000, len(GENES))).float()],
        )
    return model.save(path)
