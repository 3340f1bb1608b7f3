"""New cells from a model (Algorithm 2), in two steps: labels to latents, latents to counts.

Every random number is a function of (seed, index of the chunk, position of the cell in it), so that latents
may be stored, in float32 as they are, and decoded to the same counts at any later time.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from .counter_draws import CounterDraws
from .ode import OdeConfig
from .perturbation import about_latent
from .types import Condition, GeneratedCells, IntArray

if TYPE_CHECKING:
    from .model import CFGen


@torch.no_grad()
def draw_latents(
    model: "CFGen",
    labels: IntArray,
    *,
    guidance: Sequence[float],
    seed: int,
    index: int = 0,
    ode: OdeConfig | None = None,
    log_size_factor: NDArray[np.float32] | None = None,
) -> GeneratedCells:
    """`CFGen.draw_latents`."""
    told = torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64))
    draws, positions = CounterDraws(seed, "generation", index), torch.arange(len(told))
    beside = model.sizes_beside
    if log_size_factor is not None:
        log_l = torch.from_numpy(np.ascontiguousarray(log_size_factor, dtype=np.float32))
    elif beside.n_sizes:
        log_l = torch.zeros(len(told), beside.n_sizes)  # of a flow that draws sizes, and is told none
    else:
        log_l = model.size_factors.sample(told, model.schema, draws)
    noise = draws.normal("noise", positions, beside.width)
    condition = Condition(told.to(model.device), log_l.to(model.device))
    state = model.transport(noise.to(model.device), condition, guidance=guidance, ode=ode)
    white, of_flow = beside.part(state)
    if beside.n_sizes and log_size_factor is None:
        log_l = of_flow.cpu()
    return GeneratedCells((), told.numpy(), log_l.numpy(), white.contiguous().cpu().numpy())


@torch.no_grad()
def decode_cells(model: "CFGen", cells: GeneratedCells, *, seed: int, index: int = 0) -> GeneratedCells:
    """`CFGen.decode_cells`."""
    draws, positions = CounterDraws(seed, "generation", index), torch.arange(len(cells.labels))
    labels, log_l, white = (
        torch.from_numpy(np.ascontiguousarray(part))
        for part in (cells.labels, cells.log_size_factor, cells.latent)
    )
    if model.autoencoder.theta_attribute is not None:
        uniform = draws.uniform("theta levels", positions)
        labels = model.frequencies.draw_levels(model.autoencoder.theta_attribute, labels, uniform)
    z = model.whitening.colour(white.to(model.device))
    z = about_latent(z, model.config.autoencoder.latent_noise, draws, positions)
    keys = [draws.bits(f"counts of {m.name}", positions).to(model.device) for m in model.schema.modalities]
    counts = model.autoencoder.sample(z, log_l.to(model.device), labels.to(model.device), keys)
    return replace(cells, counts=tuple(counts))
