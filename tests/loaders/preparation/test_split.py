import numpy as np
import pandas as pd
import pytest

from loaders.preparation.split import (
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    split_by_cell,
    split_by_column,
    split_by_group,
)

NAMES = [f"cell_{i}" for i in range(5000)]
TENTHS = {"validation_fraction": 0.1, "test_fraction": 0.2}


def donors(n: int, cells_each: int = 10) -> pd.Categorical:
    return pd.Categorical([f"donor_{i}" for i in range(n) for _ in range(cells_each)])


def test_cells_are_split_in_the_fractions_asked_for() -> None:
    codes = split_by_cell(NAMES, seed=0, **TENTHS)
    # three standard deviations of a binomial share of 5,000
    assert (codes == TEST).mean() == pytest.approx(0.2, abs=0.017)
    assert (codes == VALIDATION).mean() == pytest.approx(0.1, abs=0.013)
    assert (codes != split_by_cell(NAMES, seed=1, **TENTHS)).mean() > 0.3


def test_a_cell_keeps_its_split_in_another_order_and_among_more_cells() -> None:
    codes = dict(zip(NAMES, split_by_cell(NAMES, seed=0, **TENTHS), strict=True))
    mixed = [*NAMES[::-2], *(f"new_{i}" for i in range(100))]
    again = split_by_cell(mixed, seed=0, **TENTHS)
    assert [codes[name] for name in NAMES[::-2]] == again[: len(NAMES) // 2].tolist()


@pytest.mark.parametrize(("n", "validation", "test"), [(3, 1, 1), (10, 1, 2), (40, 4, 8)])
def test_whole_donors_are_held_out_in_the_right_number(n: int, validation: int, test: int) -> None:
    groups = donors(n)
    codes = split_by_group(groups, seed=0, **TENTHS)
    of_donor = {name: set(codes[groups == name]) for name in groups.categories}
    assert all(len(splits) == 1 for splits in of_donor.values())
    held_out = [splits.pop() for splits in of_donor.values()]
    assert (held_out.count(VALIDATION), held_out.count(TEST)) == (validation, test)


def test_donors_are_split_by_their_names_alone() -> None:
    groups = donors(40)
    codes = split_by_group(groups, seed=0, **TENTHS)
    order = np.random.default_rng(0).permutation(len(groups))
    np.testing.assert_array_equal(split_by_group(groups[order], seed=0, **TENTHS), codes[order])
    assert (split_by_group(groups, seed=1, **TENTHS) != codes).any()


def test_too_few_donors_and_cells_without_donor_are_refused() -> None:
    with pytest.raises(ValueError, match="2 groups cannot give 1 for test and 1 for validation"):
        split_by_group(donors(2), seed=0, **TENTHS)
    with pytest.raises(ValueError, match=r"1 cells have no value .*cell 2"):
        split_by_group(pd.Categorical(["a", "b", None, "c"]), seed=0, **TENTHS)


def test_a_column_gives_the_split() -> None:
    values = pd.Categorical(["test", "train", "validation", "train"])
    assert split_by_column(values, column="split").tolist() == [TEST, TRAIN, VALIDATION, TRAIN]


@pytest.mark.parametrize(
    ("values", "wrong"), [(["train", "held out"], "held out"), (["train", None], "no value")]
)
def test_a_column_with_another_value_is_refused(values: list[str | None], wrong: str) -> None:
    with pytest.raises(ValueError, match=f"obs\\['fold'\\] gives the split, but has '{wrong}'"):
        split_by_column(pd.Categorical(values), column="fold")


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.1), (0.1, 1.0), (0.5, 0.5)])
def test_fractions_that_leave_nothing_to_train_on_are_refused(validation: float, test: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        split_by_cell(NAMES, seed=0, validation_fraction=validation, test_fraction=test)


def test_codes_are_the_places_of_the_names() -> None:
    assert [SPLITS[code] for code in (TRAIN, VALIDATION, TEST)] == ["train", "validation", "test"]
