"""The three protocols of METHOD 7: which real cells choose the genes and the components, and who is centred.

neutral   fitted on one half of the training cells, drawn at random; test cells, generated cells and the floor
          (the other half) are all new to it. The one to decide by.
centred   fitted on the test cells themselves; comparable with published records. Even other real cells look
          further away than they are.
legacy    as centred, but the cells compared keep the mean that the test cells have lost, as published
          notebooks once did. It measures that offset; for comparison only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from .basis import Basis
from .cells import CountedCells
from .markers import Markers, find_markers
from .normalise import FloatArray
from .peaks import PeakBasis
from .settings import EvaluationSettings

PROTOCOLS = ("neutral", "centred", "legacy")
# peaks that may be markers: rarer ones are open in too few cells for a rank test
MARKER_PEAKS = 5000


@dataclass(frozen=True)
class Protocol:
    """A named way to place cells in space; ``pool_centred`` is False for the legacy protocol alone."""

    name: str
    basis: Basis | PeakBasis
    pool_centred: bool = True

    def place_pool(self, cells: CountedCells) -> FloatArray:
        """Generated cells, or the real ones of the floor: (n, d)."""
        return self.basis.project(cells.counts, centred=self.pool_centred)

    def place_reference(self, cells: CountedCells) -> FloatArray:
        """Test cells: (n, d)."""
        return self.basis.project(cells.counts)


@dataclass(frozen=True)
class Bench:
    """Everything real that one seed scores against.

    test        test cells, at most ``max_real``
    floor       training cells that no basis has seen: what a perfect generator would give; None without
                training cells
    protocols   the first is the one to decide by
    markers     features that mark the classes, found among the cells of the neutral basis, so that they are
                new to test cells, generated cells and the floor; None without training cells or classes
    """

    test: CountedCells
    floor: CountedCells | None
    protocols: tuple[Protocol, ...]
    markers: Markers | None = None


def make_bench(
    train: CountedCells | None, test: CountedCells, *, seed: int, settings: EvaluationSettings
) -> Bench:
    """Fit the bases. ``seed`` draws the halves of the training cells, and the test cells if too many."""
    random = np.random.default_rng(seed)
    if len(test) > settings.max_real:
        test = test.take(np.sort(random.permutation(len(test))[: settings.max_real]))
    on_test = fit_basis(test.counts, settings)
    protocols = (Protocol("centred", on_test), Protocol("legacy", on_test, pool_centred=False))
    if train is None:
        return Bench(test, None, protocols)

    shuffled = random.permutation(len(train))[: 2 * settings.max_real]
    half = min(len(train) // 2, settings.max_real)
    fitted_on = train.take(np.sort(shuffled[:half]))
    floor = train.take(np.sort(shuffled[half:]))
    basis = fit_basis(fitted_on.counts, settings)
    markers = find_markers(
        fitted_on,
        basis.genes if isinstance(basis, Basis) else most_open(fitted_on.counts, MARKER_PEAKS),
        n_markers=settings.n_markers,
        of_peaks=settings.of_peaks,
    )
    return Bench(test, floor, (Protocol("neutral", basis), *protocols), markers)


def fit_basis(counts: csr_matrix, settings: EvaluationSettings) -> Basis | PeakBasis:
    """Components of variable genes, or of the TF-IDF of peaks."""
    if settings.of_peaks:
        return PeakBasis.fit(counts, settings.n_components)
    return Basis.fit(counts, settings.n_genes, settings.n_components)


def most_open(counts: csr_matrix, n: int) -> NDArray[np.int64]:
    """Columns of the ``n`` peaks that are open in most cells, ascending."""
    cells = counts.getnnz(axis=0)
    return np.sort(np.argsort(-cells, kind="stable")[:n])
