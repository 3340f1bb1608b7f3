"""Flow matching in the latent (METHOD 4, paper Algorithm 1): path, telling, pairing, loss."""

from collections.abc import Callable

import torch

from .types import NOT_TOLD, Condition, PathSample

VelocityFunction = Callable[[torch.Tensor, torch.Tensor, Condition], torch.Tensor]


def linear_path(z_0: torch.Tensor, z_1: torch.Tensor, t: torch.Tensor) -> PathSample:
    """The straight path from noise z_0 to data z_1, both (B, D), at times t (B,).

    z_t = t z_1 + (1 - t) z_0 and u_t = z_1 - z_0 (alpha_t = t, sigma_t = 1 - t).
    """
    return PathSample(t, torch.lerp(z_0, z_1, t[:, None]), z_1 - z_0)


def draw_times(n: int, generator: torch.Generator) -> torch.Tensor:
    """n stratified times (n,) float32: one uniform draw in each of n equal intervals, in random order."""
    within = torch.rand(n, generator=generator)
    return (torch.randperm(n, generator=generator) + within) / n


def tell_one(labels: torch.Tensor, p_untold: float, generator: torch.Generator) -> torch.Tensor:
    """What the flow is told of each cell in training: (B, K) int64.

    Per cell: with probability ``p_untold`` nothing, otherwise ONE attribute chosen uniformly; the others
    become -1 (Algorithm 1; the authors' code draws once for a whole batch).
    """
    n, n_attributes = labels.shape
    drop = torch.rand(n, generator=generator) < p_untold
    if n_attributes == 0:
        return labels
    chosen = torch.randint(n_attributes, (n,), generator=generator)
    told = torch.full_like(labels, NOT_TOLD)
    told.scatter_(1, chosen[:, None], labels.gather(1, chosen[:, None]))
    told[drop] = NOT_TOLD
    return told


def pair_noise(z_0: torch.Tensor, z_1: torch.Tensor) -> torch.Tensor:
    """Permute the NOISE (B, D) so that the summed squared distance to the data (B, D) is least.

    Exact minibatch optimal transport (an assignment). The data are never permuted, so that each cell keeps
    its labels and size factor.
    """
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(z_1.double(), z_0.double()).square()
    _, of_cell = linear_sum_assignment(cost.cpu().numpy())
    return z_0[torch.from_numpy(of_cell).to(z_0.device)]


def flow_loss(velocity: VelocityFunction, path: PathSample, condition: Condition) -> torch.Tensor:
    """Squared error of the velocity, mean over the D dimensions: (B,) float32."""
    return (velocity(path.t, path.z_t, condition) - path.u_t).square().mean(1)
