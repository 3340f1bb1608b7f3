import pytest
import torch

from cfgen_scale.counter_draws import CounterDraws
from cfgen_scale.size_factors import SizeFactors
from cfgen_scale.types import SchemaError


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
