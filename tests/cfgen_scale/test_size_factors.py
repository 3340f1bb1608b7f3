import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cfgen_scale.counter_draws import CounterDraws
from cfgen_scale.size_factors import SizeFactors
from cfgen_scale.types import LogNormalTable, SchemaError


def moments(log_l):
    return [round(float(v), 1) for v in (log_l.mean(), log_l.std())]


def draw(sizes, schema, label, n=20_000):
    return sizes.sample(torch.tensor([[label, 0]] * n), schema, CounterDraws(0, "a test"))[:, 0]


def test_over_all_cells(libraries, schema):
    sizes = SizeFactors.fit(libraries, schema, None)
    assert moments(draw(sizes, schema, 0)) == [4.0, 0.3]
    assert sizes.log_range.tolist() == [[3.0, 5.5]]


def test_per_level(libraries, schema):
    """A level of its own; a level of one cell, an absent level and no level at all: as all cells."""
    sizes = SizeFactors.fit(libraries, schema, "cell_type")
    assert moments(draw(sizes, schema, 0)) == [5.0, 0.1]
    for label in (1, 2, -1):
        assert moments(draw(sizes, schema, label)) == [4.0, 0.3]


def test_unknown_attribute_is_refused(libraries, schema):
    with pytest.raises(SchemaError, match=r"no attribute 'tissue'.*cell_type, donor"):
        SizeFactors.fit(libraries, schema, "tissue")


JOINT_LABELS = (((0, 0), 60), ((0, 1), 30), ((2, 0), 1), ((2, 1), 9), ((-1, 1), 10))
TABLES = ((60, 5.0, 0.1), (30, 6.0, 0.2), (1, 9.0, 0.0), (9, 4.0, 0.3), (10, 3.0, 0.4))


@pytest.fixture
def joint(libraries, schema):
    """By cell type and donor: T cells of d0 are one cell."""
    tables = tuple(LogNormalTable(*table) for table in TABLES)
    return SizeFactors.fit(
        (replace(libraries[0], by_joint=tables),), schema, ["cell_type", "donor"], JOINT_LABELS
    )


def pooled(*which):
    """Mean and sd of log l of the cells of these tables."""
    n, mean, sd = np.array([TABLES[i] for i in which]).T
    of_all = np.average(mean, weights=n)
    return of_all, np.sqrt(np.average(sd**2 + (mean - of_all) ** 2, weights=n))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((0, 0), (5.0, 0.1)),
        ((2, 1), (4.0, 0.3)),
        ((0, -1), pooled(0, 1)),
        ((-1, 1), pooled(1, 3, 4)),
        ((2, 0), pooled(2, 3)),
        ((1, 0), (4.0, 0.3)),
        ((-1, -1), (4.0, 0.3)),
    ],
    ids=[
        "both",
        "both too",
        "type alone",
        "donor alone",
        "one cell: its type",
        "no cell: all",
        "nothing: all",
    ],
)
def test_joint_levels_fall_back_on_the_first_attribute_then_on_all(joint, schema, labels, expected):
    row = joint.rows(torch.tensor([labels]), schema)
    np.testing.assert_allclose((joint.mean[0, row].item(), joint.sd[0, row].item()), expected, rtol=1e-6)
    drawn = joint.sample(torch.tensor([labels] * 20_000), schema, CounterDraws(0, "a test"))[:, 0]
    assert drawn.mean().item() == pytest.approx(expected[0], abs=0.05)
    assert drawn.std().item() == pytest.approx(expected[1], abs=0.05)


def test_cells_of_a_batch_have_each_their_own(joint, schema):
    labels = torch.tensor([[0, 0], [2, 1], [0, 0], [1, 1]])
    assert joint.mean[0, joint.rows(labels, schema)].tolist() == [5.0, 4.0, 5.0, 4.0]


def test_joint_levels_need_statistics_that_know_them(libraries, schema):
    with pytest.raises(ValueError, match="prepare it again"):
        SizeFactors.fit(libraries, schema, ["cell_type", "donor"], JOINT_LABELS)


@pytest.mark.parametrize("by", [None, "cell_type", ["cell_type", "donor"]])
def test_json_keeps_it_and_the_normalisation(libraries, schema, by, joint):
    sizes = joint if isinstance(by, list) else SizeFactors.fit(libraries, schema, by)
    document = json.loads(json.dumps(sizes.to_json()))
    assert "log_range" in document["normalisation"]
    again = SizeFactors.from_json(document)
    assert again.by == sizes.by
    for name in ("mean", "sd", "log_range"):
        assert torch.equal(getattr(again, name), getattr(sizes, name))
    np.testing.assert_array_equal(again.levels, sizes.levels)


def test_models_from_before_joint_levels_are_read(schema):
    old = {
        "by": "cell_type",
        "mean": [[4.0, 5.0, 4.0, 4.5, 4.0]],
        "sd": [[0.3] * 5],
        "log_range": [[3.0, 5.5]],
    }
    sizes = SizeFactors.from_json(old)
    rows = sizes.rows(torch.tensor([[-1, 0], [0, 0], [2, 1]]), schema)
    assert sizes.mean[0, rows].tolist() == [4.0, 5.0, 4.5]
    sizes = SizeFactors.from_json({**old, "by": None, "mean": [[4.0]], "sd": [[0.3]]})
    assert sizes.rows(torch.tensor([[1, 1]]), schema).tolist() == [0]


def test_without_modalities_of_counts_there_are_none(schema):
    sizes = SizeFactors.fit((), schema, "cell_type")
    assert SizeFactors.from_json(sizes.to_json()).sample(
        torch.zeros(3, 2), schema, CounterDraws(0, "a test")
    ).shape == (3, 0)
