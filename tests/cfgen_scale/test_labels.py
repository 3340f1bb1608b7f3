import numpy as np
import pytest
import torch

from cfgen_scale.counter_draws import CounterDraws
from cfgen_scale.labels import LabelFrequencies
from cfgen_scale.types import AtlasSchema, SchemaError


def test_drawn_labels_occur_together_as_observed(frequencies, schema):
    labels = frequencies.draw(30_000, schema, told={}, seed=0)
    shares = {
        tuple(c): n / 30_000 for c, n in zip(*np.unique(labels, axis=0, return_counts=True), strict=True)
    }
    assert shares == pytest.approx({(0, 0): 50 / 90, (0, 1): 10 / 90, (2, 1): 30 / 90}, abs=0.01)


def test_told_attributes_condition_the_others(frequencies, schema):
    labels = frequencies.draw(20_000, schema, told={"donor": "d1"}, seed=0)
    assert (labels[:, 1] == 1).all()
    assert (labels[:, 0] == 2).mean() == pytest.approx(0.75, abs=0.02)


def test_untold_attributes_are_minus_one(frequencies, schema):
    labels = frequencies.draw(50, schema, told={"cell_type": "NK"}, untold=["donor"], seed=0)
    assert (labels == [1, -1]).all()


def test_draws_are_addressed(frequencies, schema):
    def draw(seed, index):
        return frequencies.draw(100, schema, told={}, seed=seed, index=index).tolist()

    assert draw(0, 0) == draw(0, 0)
    assert draw(0, 0) != draw(0, 1)
    assert draw(0, 0) != draw(1, 0)


def test_labels_are_those_of_the_place_in_the_batch(frequencies, schema):
    whole = frequencies.draw(100, schema, told={}, seed=0)
    np.testing.assert_array_equal(frequencies.draw(30, schema, told={}, seed=0, first=70), whole[70:])


def test_a_combination_never_seen_is_refused(frequencies, schema):
    with pytest.raises(SchemaError, match=r"no training cell has .*NK.*'donor' cannot be drawn"):
        frequencies.draw(5, schema, told={"cell_type": "NK"}, seed=0)


def test_a_category_without_training_cells_is_refused(frequencies, schema):
    with pytest.raises(SchemaError, match=r"no training cell has 'cell_type' 'rare'.*Tell one of: 'B', 'NK'"):
        frequencies.draw(5, schema, told={"cell_type": "rare", "donor": "d0"}, seed=0)


def test_an_atlas_without_attributes_has_labels_of_no_columns():
    nothing = LabelFrequencies.of([((), 40)], 0)
    assert nothing.draw(5, AtlasSchema((), ()), told={}, seed=0).shape == (5, 0)


def test_unknown_names_list_the_known_ones(frequencies, schema):
    with pytest.raises(SchemaError, match=r"no category 'monocyte'.*'B', 'NK', 'T', 'rare'"):
        frequencies.draw(5, schema, told={"cell_type": "monocyte"}, seed=0)
    with pytest.raises(SchemaError, match="no attribute 'tissue'"):
        frequencies.draw(5, schema, told={"tissue": "lung"}, seed=0)


def test_levels_not_told_are_drawn_from_their_own_proportions(frequencies):
    labels = torch.tensor([[-1, 0]] * 9000 + [[1, 0]])
    filled = frequencies.draw_levels(0, labels, CounterDraws(0, "a test").uniform("x", torch.arange(9001)))
    assert filled[-1].tolist() == [1, 0]
    assert (filled[:-1, 0] == 0).float().mean().item() == pytest.approx(60 / 95, abs=0.02)
    assert (filled[:-1, 0] != 3).all()
