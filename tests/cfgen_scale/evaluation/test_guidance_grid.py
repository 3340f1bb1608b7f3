"""The grid on a generator whose best weight is known."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from cfgen_scale.evaluation import EvaluationError, EvaluationSettings, guidance_grid
from cfgen_scale.evaluation.cells import CountedCells, read_cells

SETTINGS = EvaluationSettings(n_genes=120, n_components=8, repeats=1)


def counted(cells: AnnData) -> CountedCells:
    return read_cells(cells, name="cells", genes=list(cells.var_names), label="cell_type")


def drawn(
    simulate: Callable[..., AnnData], classes: Sequence[str], weights: Sequence[float], seed: int
) -> csr_matrix:
    """Cells of the class with probability ``weights[0]``, else of any; spread shrinks with ``weights[1]``."""
    random = np.random.default_rng(seed)
    told = np.array(classes)
    kept = random.random(len(told)) < weights[0]
    shown = np.where(kept, told, random.permutation(told))
    names, sizes = np.unique(shown, return_counts=True)
    sizes_by_name = dict(zip(names.tolist(), sizes.tolist(), strict=True))
    made = counted(simulate(50 + seed, sizes_by_name, spread=0.5 / weights[1]))
    counts = np.empty((len(told), made.counts.shape[1]))
    for name in names:
        counts[shown == name] = made.counts[made.of_class(str(name))].toarray()
    return csr_matrix(counts)


def test_the_grid_finds_the_weights_that_are_right(
    simulate: Callable[..., AnnData], train: AnnData, test_cells: AnnData
) -> None:
    rows = guidance_grid(
        partial(drawn, simulate),
        counted(train),
        counted(test_cells),
        weights=[(0.0, 1.0), (1.0, 4.0)],
        seeds=(0, 1),
        settings=SETTINGS,
    )
    by_weights = {tuple(row["weights"]): row for row in rows}
    assert list(by_weights) == [(0.0, 1.0), (0.0, 4.0), (1.0, 1.0), (1.0, 4.0)]
    w2 = {weights: row["conditional_cell_weighted"]["w2"]["ratio"] for weights, row in by_weights.items()}
    assert w2[1.0, 1.0] == pytest.approx(1, abs=0.1)
    assert min(w2, key=lambda weights: abs(w2[weights] - 1)) == (1.0, 1.0)
    assert w2[0.0, 1.0] > 1.2
    assert by_weights[0.0, 1.0]["unconditional"]["w2"]["ratio"] == pytest.approx(1, abs=0.1)
    assert by_weights[1.0, 4.0]["variance_ratio"]["value"] < 0.7
    assert by_weights[1.0, 1.0]["variance_ratio"]["value"] == pytest.approx(1, abs=0.15)


def test_held_out_cells_of_single_classes_are_refused(train: AnnData, test_cells: AnnData) -> None:
    cells = counted(test_cells)
    alone = CountedCells(cells.counts, np.array([f"kind {i}" for i in range(len(cells))]))
    with pytest.raises(EvaluationError, match="no class has 2 held-out cells"):
        guidance_grid(
            lambda *_: csr_matrix((0, 0)), counted(train), alone, weights=[(1.0,)], settings=SETTINGS
        )
