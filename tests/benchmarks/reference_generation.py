"""The reference's generation (METHOD 5), written by us as a plain loop, as fast as such a loop is.

The field is integrated by torchdyn's dopri5 at 1e-5, batch after batch; counts are decoded and drawn dense,
a gamma rate and a Poisson count for every gene; all batches are concatenated and written as AnnData-Zarr by
anndata. The networks are those of the model given, guided with weight 1 by each of its attributes. Where the
authors' code evaluates a field whose coefficient is 0 and throws it away, this loop does not.
"""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix
from torchdyn.numerics import odeint

from cfgen_scale.annotate import label_columns
from cfgen_scale.guidance import guided_field
from cfgen_scale.model import CFGen
from cfgen_scale.types import Condition

BATCH = 512
TOLERANCE = 1e-5


@torch.no_grad()
def latents(model: CFGen, condition: Condition) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (B, D) that cells are drawn from, by the adaptive solver; and log sizes (B, S)."""
    noise = torch.randn(len(condition), model.sizes_beside.width)

    field = guided_field(model.velocity, condition, [1.0] * condition.labels.shape[1])
    span = torch.tensor([0.0, 1.0])
    _, path = odeint(field, noise, span, solver="dopri5", atol=TOLERANCE, rtol=TOLERANCE)
    white, of_flow = model.sizes_beside.part(path[-1])
    z = model.whitening.colour(white)
    spread = model.config.autoencoder.latent_noise * z.square().mean(1, keepdim=True).sqrt()
    sizes = of_flow if model.sizes_beside.n_sizes else condition.log_size_factor
    return z + spread * torch.randn_like(z), sizes


@torch.no_grad()
def counts(model: CFGen, z: torch.Tensor, condition: Condition) -> torch.Tensor:
    """Dense (B, G) float32: Poisson counts with gamma rates, as torch.distributions draws them."""
    ((log_mean, log_theta),) = model.autoencoder.decode(z, condition.log_size_factor, condition.labels)
    theta = log_theta.exp().expand_as(log_mean)
    rates = torch.distributions.Gamma(theta, theta / log_mean.exp()).sample()
    return torch.poisson(rates)


def generate(model: CFGen, cells: int, out: Path) -> None:
    """``cells`` cells, all in memory, into an AnnData-Zarr at ``out``."""
    torch.manual_seed(0)
    labels = torch.from_numpy(model.draw_labels(cells, {}, (), seed=0))
    log_sizes = model.size_factors.mean[0, 0] + model.size_factors.sd[0, 0] * torch.randn(cells, 1)
    drawn, spaces = [], []
    for first in range(0, cells, BATCH):
        rows = slice(first, first + BATCH)
        condition = Condition(labels[rows], log_sizes[rows])
        z, sizes = latents(model, condition)
        spaces.append(z)
        drawn.append(counts(model, z, Condition(condition.labels, sizes)))
    atlas = anndata.AnnData(
        csr_matrix(torch.cat(drawn).numpy()),
        obs=pd.DataFrame(label_columns(labels.numpy(), model.schema), index=np.arange(cells).astype(str)),
        var=pd.DataFrame(index=list(model.schema.modalities[0].features)),
        obsm={"X_cfgen": torch.cat(spaces).numpy()},
    )
    atlas.write_zarr(out)
