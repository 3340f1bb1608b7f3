"""The least a model must beat: features drawn independently of one another, given the class.

Genes: a negative binomial for each class and gene, by moments: mean m and variance v of the class' training
cells give theta = m^2 / (v - m), and a Poisson where v <= m. Peaks: a Bernoulli for each class and peak, by
maximum likelihood: the share of the class' training cells in which it is open.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from cfgen_scale.evaluation.normalise import mean_and_variance
from cfgen_scale.randomness import hashed
from tests.benchmarks.peer_cells import ATAC, LABEL, Labels
from tests.benchmarks.peer_fit import Fitted

FloatArray = NDArray[np.float64]
BLOCK_CELLS = 512


@dataclass(frozen=True)
class NegativeBinomials:
    """Of one class: mean (G,) and inverse dispersion (G,), infinite where the counts are Poisson."""

    mean: FloatArray
    theta: FloatArray

    @staticmethod
    def fit(counts: csr_matrix) -> "NegativeBinomials":
        """By the moments of the counts (n, G) of one class; a single cell has no variance: Poisson."""
        mean, variance = mean_and_variance(counts) if counts.shape[0] > 1 else (counts.toarray()[0], 0.0)
        excess = np.maximum(variance - mean, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            theta = np.where(excess > 0, mean**2 / excess, np.inf)
        return NegativeBinomials(np.asarray(mean, dtype=np.float64), theta)

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Counts (n, G) of cells whose genes know nothing of one another."""
        rate = np.broadcast_to(self.mean, (n, len(self.mean))).copy()
        gamma = np.isfinite(self.theta)
        shape = self.theta[gamma]
        rate[:, gamma] = rng.gamma(shape, self.mean[gamma] / shape, (n, len(shape)))
        return rng.poisson(rate)


@dataclass(frozen=True)
class Bernoullis:
    """Of one class: the probability (P,) of each peak to be open."""

    open: FloatArray

    @staticmethod
    def fit(counts: csr_matrix) -> "Bernoullis":
        return Bernoullis(np.asarray((counts > 0).mean(axis=0)).ravel())

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return (rng.random((n, len(self.open))) < self.open).astype(np.int64)


def fit_independent(train: Mapping[str, AnnData], seed: int) -> Fitted:
    """A distribution for each class and feature of every modality of ``train``. The fit has no randomness."""
    del seed
    models = {}
    for modality, cells in train.items():
        classes = cells.obs[LABEL].astype(str).to_numpy()
        kind = Bernoullis if modality == ATAC else NegativeBinomials
        counts = csr_matrix(cells.X)
        models[modality] = {str(c): kind.fit(counts[classes == c]) for c in np.unique(classes)}

    def draw(told: Labels, seed: int) -> dict[str, csr_matrix]:
        return {name: _draw(of_class, name, told, seed) for name, of_class in models.items()}

    return Fitted(draw, {"epochs": 0})


def _draw(
    of_class: Mapping[str, NegativeBinomials | Bernoullis], modality: str, told: Labels, seed: int
) -> csr_matrix:
    """Counts (n, features) of cells of the classes ``told`` (n,)."""
    order, blocks = [], []
    for number, name in enumerate(np.unique(told)):
        rng = np.random.default_rng(hashed(seed, f"independent {modality}", number))
        places = np.flatnonzero(told == name)
        order.append(places)
        for begin in range(0, len(places), BLOCK_CELLS):
            n = min(BLOCK_CELLS, len(places) - begin)
            blocks.append(csr_matrix(of_class[str(name)].draw(n, rng).astype(np.int32)))
    return csr_matrix(vstack(blocks, format="csr")[np.argsort(np.concatenate(order))])
