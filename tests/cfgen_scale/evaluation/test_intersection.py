"""The experiment of Table 10 on a generator that obeys its weights, and on ones that do not."""

from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cfgen_scale.evaluation.attribute_classifier import AttributeClassifier
from cfgen_scale.evaluation.cells import EvaluationError
from cfgen_scale.evaluation.intersection import (
    IntersectionSettings,
    PairedCells,
    intersection,
    largest_pairs,
)

TYPES, DONORS, GENES = ("B", "T"), ("d1", "d2"), 60
SETTINGS = IntersectionSettings(cells=150, n_genes=60, n_components=8, variance_components=5)
# so small a set of training cells stops the classifier early or at its most epochs, whichever is first
pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")


def rates() -> np.ndarray:
    """Mean counts of every (type, donor): type raises a half of the genes, donor a sixth."""
    rate = np.full((2, 2, GENES), 3.0)
    for t in range(2):
        rate[t, :, 30 * t : 30 * t + 15] *= 4
    for d in range(2):
        rate[:, d, 20 + 30 * d : 30 + 30 * d] *= 4
    return rate


def draw_cells(kinds: np.ndarray, donors: np.ndarray, seed: int, spread: float = 0.3) -> csr_matrix:
    random = np.random.default_rng([2, seed])
    noise = np.exp(spread * random.normal(size=(len(kinds), GENES)))
    return csr_matrix(random.poisson(rates()[kinds, donors] * noise).astype(float))


def real(seed: int, n: int) -> PairedCells:
    random = np.random.default_rng([3, seed])
    kinds, donors = random.integers(0, 2, (2, n))
    names = np.stack([np.array(TYPES)[kinds], np.array(DONORS)[donors]], axis=1)
    return PairedCells(draw_cells(kinds, donors, seed), names)


def obedient(pair: tuple[str, str], first: float, second: float, cells: int, seed: int) -> csr_matrix:
    """A weight is the share of cells that have the attribute; the others have the other category."""
    random = np.random.default_rng(seed)
    has = [random.random(cells) < weight for weight in (first, second)]
    wanted = (TYPES.index(pair[0]), DONORS.index(pair[1]))
    kinds, donors = (np.where(h, w, 1 - w) for h, w in zip(has, wanted, strict=True))
    return draw_cells(kinds, donors, 100 + seed)


def collapsed(pair: tuple[str, str], first: float, second: float, cells: int, seed: int) -> csr_matrix:
    """Every cell at one place, further out than the mean of the intersection."""
    return csr_matrix(
        np.tile(np.rint(rates()[TYPES.index(pair[0]), DONORS.index(pair[1])] ** 1.2), (cells, 1))
    )


def run(draw: Any, **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"weights": [0.0, 0.5, 1.0], "seeds": (0, 1), "settings": SETTINGS} | options
    return intersection(draw, real(0, 600), real(1, 200), given.pop("pairs", [("B", "d2")]), **given)


def test_probabilities_follow_the_weight_and_reach_those_of_real_cells() -> None:
    found = run(obedient)
    (of_pair,) = found["pairs"]
    assert min(found["classifier_accuracy"]) > 0.9
    assert of_pair["real"]["cells"] == len(real(1, 200).of(("B", "d2")))
    seconds = [row["probability_second"] for row in of_pair["generated"]]
    assert seconds == pytest.approx([0, 0.5, 1], abs=0.1)
    assert all(row["probability_first"] > 0.9 for row in of_pair["generated"])
    assert of_pair["generated"][2]["variance_ratio"] == pytest.approx(1, abs=0.2)
    # cells of two donors vary more than those of one
    assert of_pair["generated"][1]["variance_ratio"] > 1.3
    assert of_pair["train"]["variance_ratio"] == pytest.approx(1, abs=0.2)


def test_the_other_attribute_may_grow() -> None:
    settings = IntersectionSettings(cells=150, n_genes=60, n_components=8, variance_components=5, growing=0)
    (of_pair,) = run(obedient, settings=settings)["pairs"]
    assert [row["probability_first"] for row in of_pair["generated"]] == pytest.approx([0, 0.5, 1], abs=0.1)


def test_a_collapse_reaches_nothing_however_high_its_probabilities() -> None:
    (of_pair,) = run(collapsed)["pairs"]
    last = of_pair["generated"][-1]
    assert last["probability_first"] >= of_pair["real"]["probability_first"]
    assert last["probability_second"] >= of_pair["real"]["probability_second"]
    assert last["variance_ratio"] == pytest.approx(0, abs=1e-9)
    assert of_pair["reached"] is None


@pytest.mark.parametrize(
    ("pair", "says"),
    [(("NK", "d1"), "no classifier knows 'NK'.*Known: 'B', 'T'"), (("B", "d3"), "no classifier knows 'd3'")],
)
def test_unknown_categories_are_refused_before_anything_is_drawn(pair: tuple[str, str], says: str) -> None:
    def never(*_: Any) -> csr_matrix:
        raise AssertionError("drew")

    with pytest.raises(EvaluationError, match=says):
        run(never, pairs=[pair])


def test_pairs_without_real_cells_are_refused() -> None:
    held_out = real(1, 200)
    rows = np.setdiff1d(np.arange(200), held_out.of(("B", "d2"))[3:])
    few = PairedCells(held_out.counts[rows], held_out.names[rows])
    with pytest.raises(EvaluationError, match="3 held-out cells are 'B' and 'd2'; at least 5"):
        intersection(obedient, real(0, 600), few, [("B", "d2")], weights=[1.0], settings=SETTINGS)


def test_the_largest_pairs_are_of_different_types_first() -> None:
    names = [("B", "d1")] * 9 + [("B", "d2")] * 8 + [("T", "d1")] * 3 + [("T", "")] * 20 + [("T", "d2")] * 2
    cells = PairedCells(csr_matrix((len(names), 1)), np.array(names))
    assert largest_pairs(cells, 3) == [("B", "d1"), ("T", "d1"), ("B", "d2")]


def test_a_classifier_learns_no_category_of_few_cells() -> None:
    points = np.random.default_rng(0).normal(size=(60, 3))
    names = np.array(["a"] * 30 + ["b"] * 20 + ["c"] * 9 + [""])
    classifier = AttributeClassifier.fit(points, names)
    assert classifier.categories == ("a", "b")
    assert np.isnan(classifier.accuracy(points[:2], np.array(["c", ""])))
    both = classifier.probability(points, "a") + classifier.probability(points, "b")
    np.testing.assert_allclose(both, 1)
    with pytest.raises(
        EvaluationError, match="needs 2 categories with 10 training cells each; 1 of 'a', 'b'"
    ):
        AttributeClassifier.fit(points[:35], names[:35])
