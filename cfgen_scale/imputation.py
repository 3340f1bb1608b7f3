"""What a cell's missing counts would be: through the flow to noise and back (METHOD 6, paper I.6)."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from .model import CFGen
from .ode import OdeConfig
from .randomness import generator
from .types import Condition, IntArray

COUNTED = ("negative_binomial", "poisson")


@torch.no_grad()
def impute(
    model: CFGen,
    counts: Sequence[csr_matrix],
    labels: IntArray,
    *,
    guidance: Sequence[float],
    sigma: float = 0.05,
    kept_share: float = 1.0,
    through_flow: bool = True,
    seed: int = 0,
    ode: OdeConfig | None = None,
    batch_cells: int = 512,
) -> Iterator[tuple[slice, list[NDArray[np.float32]]]]:
    """Expected counts of cells of which a part was lost, batch by batch: rows, and (B, G) of each modality.

    Each cell is encoded, integrated from t = 1 to 0 under its own labels, moved by N(0, sigma^2 I),
    integrated back, and decoded: the mean of its counts, for the library size seen divided by ``kept_share``.

    counts        one CSR matrix (n, G) a modality, of the model's features; every cell has counts
    labels        (n, K) int64, -1 = not known
    guidance      weight of each attribute (K,), the same in both directions
    sigma         of the step in noise; the paper: below 0.1, or the cell becomes another one
    kept_share    share of a cell's counts that was not lost
    through_flow  False decodes what was encoded: the autoencoder alone
    seed          of the step; it is a function of (seed, first row of the batch)

    The model is to have been trained on cells with as much lost. Raises ValueError for values out of range,
    cells without counts, or a modality whose library size means nothing (binarised peaks).
    """
    _require_counts(model, counts, sigma, kept_share)
    sizes = [np.asarray(c.sum(axis=1), dtype=np.float64).ravel() for c in counts]
    log_seen = torch.from_numpy(np.log(np.stack(sizes, axis=1)).astype(np.float32)).to(model.device)
    told = torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64)).to(model.device)
    for first in range(0, len(told), batch_cells):
        rows = slice(first, min(first + batch_cells, len(told)))
        condition = Condition(told[rows], log_seen[rows])
        white = model.encode([c[rows] for c in counts])
        if through_flow:
            state = model.sizes_beside.join(white, condition.log_size_factor)
            noise = model.transport(state, condition, guidance=guidance, backwards=True, ode=ode)
            step = torch.randn(noise.shape, generator=generator(seed, "imputation", first)).to(noise.device)
            state = model.transport(noise + sigma * step, condition, guidance=guidance, ode=ode)
            white, _ = model.sizes_beside.part(state)
        log_whole = condition.log_size_factor - float(np.log(kept_share))
        decoded = model.autoencoder.decode(model.whitening.colour(white), log_whole, condition.labels)
        yield rows, [parameters[0].exp().cpu().numpy() for parameters in decoded]


def _require_counts(model: CFGen, counts: Sequence[csr_matrix], sigma: float, kept_share: float) -> None:
    if not sigma >= 0:
        raise ValueError(f"sigma is a standard deviation, not {sigma}.")
    if not 0 < kept_share <= 1:
        raise ValueError(f"kept_share is above 0 and at most 1, not {kept_share}.")
    for modality, matrix in zip(model.schema.modalities, counts, strict=True):
        if modality.likelihood not in COUNTED:
            raise ValueError(
                f"{modality.name!r} is {modality.likelihood}: what is imputed is {' or '.join(COUNTED)}."
            )
        empty = np.flatnonzero(np.asarray(matrix.sum(axis=1)).ravel() == 0)
        if len(empty):
            raise ValueError(
                f"{len(empty)} cells have no counts of {modality.name!r}, the first in row {empty[0]}. Leave "
                "them out: nothing says what they are."
            )
