"""A schema, a tiny model and counts, for tests of the science."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from cfgen_scale.autoencoder import AutoencoderConfig
from cfgen_scale.labels import LabelFrequencies
from cfgen_scale.model import CFGen
from cfgen_scale.model_config import ModelConfig
from cfgen_scale.ode import OdeConfig
from cfgen_scale.size_factors import SizeFactors
from cfgen_scale.training.loop import initialised
from cfgen_scale.types import AtlasSchema, Covariate, LibraryStatistics, LogNormalTable, Modality
from cfgen_scale.velocity import VelocityConfig


@pytest.fixture
def schema():
    return AtlasSchema(
        (Modality("rna", "negative_binomial", tuple(f"gene-{i}" for i in range(40))),),
        (Covariate("cell_type", ("B", "NK", "T", "rare")), Covariate("donor", ("d0", "d1"))),
    )


@pytest.fixture
def libraries():
    """cell_type B has a distribution of its own, T has one cell only, NK is absent."""
    by_label = {"cell_type": {"B": LogNormalTable(60, 5.0, 0.1), "T": LogNormalTable(1, 9.0, 0.0)}}
    return (LibraryStatistics(LogNormalTable(100, 4.0, 0.3), 3.0, 5.5, by_label),)


@pytest.fixture
def frequencies():
    return LabelFrequencies.of([((0, 0), 50), ((0, 1), 10), ((2, 1), 30), ((1, -1), 5), ((-1, 0), 10)], 2)


@pytest.fixture
def counts():
    drawn = np.random.default_rng(0).poisson(0.7, (24, 40)).astype(np.int32)
    return csr_matrix(drawn)


@pytest.fixture
def model_of(schema, libraries, frequencies):
    """A builder of small random models: keyword arguments go to AutoencoderConfig and ModelConfig."""

    def build(
        *,
        theta_by=None,
        size_factors=None,
        size_factors_by=None,
        size_factor_told=False,
        attributes_told="one",
        seed=0,
        skip="none",
        encoder_input="counts",
        latent_noise=0.0,
        whitening="full",
        ode=None,
    ):
        config = ModelConfig(
            AutoencoderConfig(
                latent=5,
                hidden=(16, 8),
                theta_by=theta_by,
                encoder_input=encoder_input,
                latent_noise=latent_noise,
            ),
            VelocityConfig(
                width=16,
                blocks=2,
                embedding=8,
                size_factor_told=size_factor_told,
                attributes_told=attributes_told,
                skip=skip,
            ),
            size_factors=size_factors or ("log_normal" if size_factors_by or size_factor_told else "flow"),
            size_factors_by=size_factors_by,
            ode=ode or OdeConfig(),
            whitening=whitening,
        )
        made = initialised(
            lambda: CFGen(
                config,
                schema,
                size_factors=SizeFactors.fit(libraries, schema, size_factors_by),
                frequencies=frequencies,
                feature_totals=[torch.arange(40.0)],
            ),
            seed,
        )
        shake(made.velocity)
        return made.eval()

    return build


def shake(network: torch.nn.Module) -> None:
    """Leave the zero initialisation, so that every part of a network has something to say."""
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draws))
