"""The reference's recipe (METHOD 3, 4) written by us as plain PyTorch loops, as fast as such loops are.

Counts lie in RAM as dense float32; the likelihood is the one of scvi-tools, log-gammas of the whole matrix.
Kept out: what slows the reference down beside its recipe (Lightning, anomaly detection, a DataLoader of
single cells). Networks have the layers, the sizes and the normalisation of ours; AdamW is PyTorch's default,
or with ``fused`` the one that we use.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from cfgen_scale.types import Condition
from cfgen_scale.velocity import Velocity, VelocityConfig

EPSILON = 1e-8
LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 1e-3, 1e-5, 1.0
LATENT, HIDDEN = 50, (512, 256)
SMALL_VELOCITY = VelocityConfig(width=32, embedding=20)
P_UNTOLD = 0.2

Step = Callable[[], int]


def shuffled(n: int, batch: int) -> Iterator[torch.Tensor]:
    """Batches of row numbers, epoch after epoch; the ragged end is left out."""
    while True:
        order = torch.randperm(n)
        for first in range(0, n - batch + 1, batch):
            yield order[first : first + batch]


def mlp(sizes: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(n_in, n_out), nn.LayerNorm(n_out), nn.ELU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def nb_log_prob(x: torch.Tensor, mean: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """The formula of scvi-tools' log_nb_positive, entry by entry: (B, G)."""
    log_total = torch.log(theta + mean + EPSILON)
    return (
        theta * (torch.log(theta + EPSILON) - log_total)
        + x * (torch.log(mean + EPSILON) - log_total)
        + torch.lgamma(x + theta)
        - torch.lgamma(theta)
        - torch.lgamma(x + 1)
    )


class PlainAutoencoder(nn.Module):
    """Encoder, decoder and one theta per gene; forward gives the loss of each cell."""

    def __init__(self, n_genes: int) -> None:
        super().__init__()
        self.encoder = mlp((n_genes, *HIDDEN, LATENT))
        self.decoder = mlp((LATENT, *reversed(HIDDEN), n_genes))
        self.log_theta = nn.Parameter(torch.randn(n_genes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        share = torch.softmax(self.decoder(self.encoder(torch.log1p(x))), dim=1)
        return -nb_log_prob(x, x.sum(1, keepdim=True) * share, self.log_theta.exp()).sum(1)


def optimiser_step(network: nn.Module, optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
    optimiser.step()


def autoencoder_loop(counts: np.ndarray, *, batch: int, fused: bool) -> Step:
    """A function that takes one training step and returns its number of cells."""
    data = torch.from_numpy(counts)
    network = PlainAutoencoder(data.shape[1])
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=fused or None
    )
    batches = shuffled(len(data), batch)

    def step() -> int:
        loss = network(data[next(batches)]).mean()
        optimiser_step(network, optimiser, loss)
        return batch

    return step


def flow_loop(
    counts: np.ndarray, labels: np.ndarray, n_categories: list[int], *, batch: int, cached: bool
) -> Step:
    """One flow-matching step: every cell is encoded again, or all are once, beforehand (``cached``)."""
    data, told = torch.from_numpy(counts), torch.from_numpy(labels)
    encoder = mlp((data.shape[1], *HIDDEN, LATENT)).eval()
    velocity = Velocity(
        SMALL_VELOCITY, latent=LATENT, n_categories=n_categories, log_size_range=torch.tensor([[0.0, 1.0]])
    )
    optimiser = torch.optim.AdamW(velocity.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    with torch.no_grad():
        latents = torch.cat([encoder(part.log1p()) for part in data.split(512)]) if cached else None
    batches = shuffled(len(data), batch)

    def step() -> int:
        rows = next(batches)
        with torch.no_grad():
            z_1 = encoder(data[rows].log1p()) if latents is None else latents[rows]
        t, z_0 = torch.rand(batch), torch.randn_like(z_1)
        untold = (torch.rand(batch) < P_UNTOLD)[:, None]
        condition = Condition(told[rows].masked_fill(untold, -1), torch.zeros(batch, 1))
        z_t = t[:, None] * z_1 + (1 - t[:, None]) * z_0
        loss = (velocity(t, z_t, condition) - (z_1 - z_0)).square().mean()
        optimiser_step(velocity, optimiser, loss)
        return batch

    return step
