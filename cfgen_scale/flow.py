"""Flow matching in the latent (METHOD 4, paper Algorithm 1): path, telling, pairing, loss."""

from collections.abc import Callable
from dataclasses import replace

import torch

from .counter_draws import CounterDraws
from .types import NOT_TOLD, AttributesTold, Condition, PathSample

VelocityFunction = Callable[[torch.Tensor, torch.Tensor, Condition], torch.Tensor]


def linear_path(z_0: torch.Tensor, z_1: torch.Tensor, t: torch.Tensor) -> PathSample:
    """The straight path from noise z_0 to data z_1, both (B, D), at times t (B,).

    z_t = t z_1 + (1 - t) z_0 and u_t = z_1 - z_0 (alpha_t = t, sigma_t = 1 - t).
    """
    return PathSample(t, torch.lerp(z_0, z_1, t[:, None]), z_1 - z_0)


def about(path: PathSample, sigma: float, noise: torch.Tensor) -> PathSample:
    """Points about the path: z_t + sigma * noise, with normal ``noise`` (B, D); the target stays u_t.

    The authors' code has sigma = 1e-4 (METHOD 4): a path of that width about each straight line.
    """
    return replace(path, z_t=path.z_t + sigma * noise)


def tell(
    draws: CounterDraws,
    positions: torch.Tensor,
    labels: torch.Tensor,
    p_untold: float,
    told: AttributesTold = "one",
) -> torch.Tensor:
    """What the flow is told in training of the cells at ``positions`` (m,) with ``labels`` (m, K): (m, K).

    Per cell: with probability ``p_untold`` nothing; otherwise "one" attribute chosen uniformly (Algorithm 1;
    the authors' code draws once for a whole batch), "all", or a "subset": each with an attribute in it is as
    likely. The others become -1.
    """
    n_attributes = labels.shape[1]
    if n_attributes == 0:
        return labels
    attributes = torch.arange(n_attributes, device=labels.device)
    match told:
        case "one":
            chosen = draws.integer("attribute told", positions, n_attributes)[:, None] == attributes
        case "all":
            chosen = torch.ones_like(labels, dtype=torch.bool)
        case "subset":
            # The bits of 1 .. 2^K - 1 are the subsets.
            number = 1 + draws.integer("attributes told", positions, 2**n_attributes - 1)
            chosen = (number[:, None] >> attributes & 1).bool()
    chosen &= (draws.uniform("told nothing", positions) >= p_untold)[:, None]
    return torch.where(chosen, labels, NOT_TOLD)


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
