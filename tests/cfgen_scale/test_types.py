import numpy as np
import pytest

from cfgen_scale.types import AtlasSchema, Covariate, Modality, SchemaError


def make(features=("a", "b"), categories=("x", "y")):
    return AtlasSchema(
        (Modality("rna", "negative_binomial", features),), (Covariate("cell_type", categories),)
    )


def test_a_schema_survives_json_and_is_known_by_its_digest():
    schema = make()
    assert AtlasSchema.from_json(schema.to_json()) == schema
    assert AtlasSchema.from_json(schema.to_json()).digest() == schema.digest()
    assert make(features=("b", "a")).digest() != schema.digest()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make(features=("a", "c")), "features of 'rna' differ first at place 1: 'b' in model, 'c' in data"),
        (make(features=("a", "b", "c")), "features of 'rna': 2 in model, 3 in data"),
        (make(categories=("x", "z")), "categories of 'cell_type' differ first at place 1"),
        (AtlasSchema(make().modalities, ()), "attributes: 1 in model, 0 in data"),
    ],
)
def test_the_first_difference_is_named(other, message):
    with pytest.raises(SchemaError, match=message):
        make().require_same(other, this="model", that="data")
    make().require_same(make(), this="model", that="data")


def test_codes_of_missing_and_unknown_values_are_not_told():
    codes = make().covariate("cell_type").codes(np.array(["y", "nan", None, "x", float("nan")], dtype=object))
    assert codes.tolist() == [1, -1, -1, 0, -1]
