import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cfgen_scale.evaluation.cells import CountedCells
from cfgen_scale.evaluation.markers import find_markers, marker_correlations, marker_means

GENES, EACH = 40, 50
KINDS = ("B", "NK", "T")


def cells(seed: int, *, fold: float = 8.0, untold: int = 0) -> CountedCells:
    """Three classes; class k has ``fold`` times the counts in genes 3 k .. 3 k + 2."""
    random = np.random.default_rng(seed)
    rate = np.full((len(KINDS), GENES), 2.0)
    for k in range(len(KINDS)):
        rate[k, 3 * k : 3 * k + 3] *= fold
    kind = np.repeat(np.arange(len(KINDS)), EACH)
    classes = np.array(KINDS)[kind]
    classes[:untold] = ""
    return CountedCells(csr_matrix(random.poisson(rate[kind]).astype(float)), classes)


def markers_of(real: CountedCells, n: int = 3, *, of_peaks: bool = False):
    found = find_markers(real, np.arange(GENES), n_markers=n, of_peaks=of_peaks)
    assert found is not None
    return found


def test_the_genes_that_were_raised_are_found() -> None:
    found = markers_of(cells(0, untold=5))
    assert {name: sorted(columns.tolist()) for name, columns in found.of_class.items()} == {
        "B": [0, 1, 2],
        "NK": [3, 4, 5],
        "T": [6, 7, 8],
    }
    assert found.columns.tolist() == list(range(9))


def test_only_candidates_are_looked_at_and_columns_are_those_of_all_genes() -> None:
    found = find_markers(cells(0), np.array([1, 4, 7, 20]), n_markers=1, of_peaks=False)
    assert found is not None
    assert {name: columns.tolist() for name, columns in found.of_class.items()} == {
        "B": [1],
        "NK": [4],
        "T": [7],
    }


def test_classes_of_two_cells_have_no_markers_and_one_class_alone_none_at_all() -> None:
    few = cells(0)
    rows = np.r_[0:EACH, EACH : EACH + 2, 2 * EACH : 3 * EACH]
    assert list(markers_of(few.take(rows)).of_class) == ["B", "T"]
    assert find_markers(few.take(np.arange(EACH)), np.arange(GENES), n_markers=3, of_peaks=False) is None


def test_means_are_those_of_the_class() -> None:
    real = cells(0)
    found = markers_of(real, of_peaks=True)
    opened = (real.counts.toarray() > 0)[:, :9]
    expected = np.stack([opened[real.classes == name].mean(0) for name in KINDS])
    np.testing.assert_allclose(marker_means(real, found, KINDS), expected)


def test_other_cells_of_the_classes_correlate_and_shuffled_ones_do_not() -> None:
    real, other = cells(0), cells(1)
    found = markers_of(real)
    assert min(marker_correlations(other, real, found, KINDS).values()) > 0.9
    turned = CountedCells(other.counts, np.roll(other.classes, EACH))
    assert max(marker_correlations(turned, real, found, KINDS).values()) < 0


def test_equal_means_have_no_correlation() -> None:
    real = cells(0)
    flat = CountedCells(csr_matrix(np.ones((3, GENES))), np.array(KINDS))
    assert np.isnan(list(marker_correlations(flat, real, markers_of(real), KINDS).values())).all()


@pytest.mark.parametrize("of_peaks", [False, True])
def test_markers_do_not_depend_on_what_is_averaged(of_peaks: bool) -> None:
    assert markers_of(cells(0), of_peaks=of_peaks).columns.tolist() == list(range(9))
