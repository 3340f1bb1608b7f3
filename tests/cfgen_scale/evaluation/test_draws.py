import numpy as np
from scipy.sparse import csr_matrix

from cfgen_scale.evaluation.cells import UNTOLD, CountedCells
from cfgen_scale.evaluation.draws import pair_of_sets, pairs_by_class, same_classes, scored_classes


def cells(**sizes: int) -> CountedCells:
    classes = np.repeat([name.replace("untold", UNTOLD) for name in sizes], list(sizes.values()))
    return CountedCells(csr_matrix((len(classes), 1)), classes)


POOL = cells(a=40, b=3, c=1, d=9, untold=50)
TEST = cells(a=10, b=5, c=5, e=6, untold=2)


def test_a_class_needs_two_cells_on_both_sides() -> None:
    assert scored_classes(POOL, TEST) == ["a", "b"]


def test_no_more_of_the_pool_than_of_the_test_cells_and_never_one_twice() -> None:
    pairs = {name: (p, t) for name, p, t in pairs_by_class(POOL, TEST, seed=0, repeat=0, max_cells=7)}
    assert {name: (len(set(p)), len(set(t))) for name, (p, t) in pairs.items()} == {"a": (7, 7), "b": (3, 5)}
    assert {*POOL.classes[pairs["a"][0]], *TEST.classes[pairs["a"][1]]} == {"a"}


def test_draws_are_addressed_by_seed_and_repeat() -> None:
    def drawn(seed: int, repeat: int) -> list[list[int]]:
        return [p.tolist() for _, p, _ in pairs_by_class(POOL, TEST, seed=seed, repeat=repeat, max_cells=9)]

    assert drawn(0, 0) == drawn(0, 0)
    assert drawn(0, 0) != drawn(1, 0)
    assert drawn(0, 0) != drawn(0, 1)


def test_whole_sets_take_untold_cells_too() -> None:
    of_pool, of_test = pair_of_sets(len(POOL), len(TEST), seed=0, repeat=0, max_cells=1000)
    assert sorted(of_test) == list(range(len(TEST)))
    assert len(set(of_pool)) == len(TEST)


def test_matched_cells_have_the_classes_of_the_test_cells() -> None:
    names, counts = np.unique(POOL.classes[same_classes(POOL, TEST, seed=0)], return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {"a": 10, "b": 3, "c": 1}


def test_without_a_shared_class_any_cells_match() -> None:
    assert len(set(same_classes(cells(untold=100), TEST, seed=0))) == len(TEST)
