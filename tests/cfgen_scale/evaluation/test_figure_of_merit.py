import pytest

from cfgen_scale.evaluation.figure_of_merit import figure, merge

NAN = float("nan")


def test_value_spread_and_floor_over_seeds() -> None:
    assert figure([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == {
        "value": 4.0,
        "spread": 2.0,
        "floor": 2.0,
        "floor_spread": 1.0,
        "ratio": 2.0,
    }


@pytest.mark.parametrize(
    ("values", "floors", "absent"),
    [
        ([3.0], [2.0], {"spread", "floor_spread"}),
        ([3.0, 3.5], [], {"floor", "floor_spread", "ratio"}),
        ([3.0, 3.5], [-0.1, 0.0], {"ratio"}),
        ([NAN, NAN], [1.0, 2.0], {"value", "spread", "ratio"}),
    ],
    ids=["one seed", "no floor", "floor not positive", "not defined"],
)
def test_none_stands_where_there_is_nothing(
    values: list[float], floors: list[float], absent: set[str]
) -> None:
    assert {key for key, value in figure(values, floors).items() if value is None} == absent


def test_trees_keep_their_shape_and_what_only_some_seeds_have() -> None:
    merged = merge([{"w2": {"a": 1.0}}, {"w2": {"a": 3.0, "b": 5.0}}], [{"w2": {"a": 2.0}}])
    assert merged["w2"]["a"]["value"] == 2.0
    assert merged["w2"]["b"]["value"] == 5.0
    assert merged["w2"]["b"]["floor"] is None
