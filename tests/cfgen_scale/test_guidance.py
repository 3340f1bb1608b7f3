"""Identities of compositional guidance (Eq. 8)."""

import pytest
import torch

from cfgen_scale.guidance import guided_field
from cfgen_scale.types import Condition


@pytest.fixture
def velocity(model_of):
    return model_of(size_factor_told=True).velocity


@pytest.fixture
def condition():
    labels = torch.tensor([[0, 1], [2, 0], [1, 1], [-1, 0]])
    return Condition(labels, torch.tensor([[3.0], [4.0], [5.0], [4.5]]))


Z = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
T = torch.tensor(0.3)


@torch.no_grad()
def at(velocity, condition, weights):
    return guided_field(velocity, condition, weights)(T, Z)


@torch.no_grad()
def plain(velocity, condition):
    return velocity(T.expand(4), Z, condition)


def test_all_weights_zero_is_the_unconditional_field(velocity, condition):
    torch.testing.assert_close(at(velocity, condition, [0.0, 0.0]), plain(velocity, condition.untold()))


def test_one_attribute_with_weight_one_is_its_conditional_field(velocity, condition):
    torch.testing.assert_close(at(velocity, condition, [1.0, 0.0]), plain(velocity, condition.only(0)))
    torch.testing.assert_close(at(velocity, condition, [0.0, 1.0]), plain(velocity, condition.only(1)))


def test_several_attributes_are_equation_8(velocity, condition):
    u = plain(velocity, condition.untold())
    parts = [plain(velocity, condition.only(k)) - u for k in (0, 1)]
    torch.testing.assert_close(at(velocity, condition, [2.0, -0.5]), u + 2.0 * parts[0] - 0.5 * parts[1])


def test_linear_in_the_weights(velocity, condition):
    ends = [at(velocity, condition, w) for w in ([0.0, 1.0], [3.0, 2.0])]
    torch.testing.assert_close(at(velocity, condition, [1.5, 1.5]), (ends[0] + ends[1]) / 2)


def test_attributes_matter_and_an_untold_one_does_not_pull(velocity, condition):
    apart = at(velocity, condition, [1.0, 0.0]) - at(velocity, condition, [0.0, 0.0])
    assert (apart[:3].abs().amax(1) > 1e-3).all()
    torch.testing.assert_close(apart[3], torch.zeros(5))


def test_the_number_of_weights_is_checked(velocity, condition):
    with pytest.raises(ValueError, match="1 guidance weights for 2 attributes"):
        guided_field(velocity, condition, [1.0])


def test_without_attributes_the_field_is_the_unconditional_one():
    nobody = Condition(torch.empty(4, 0, dtype=torch.int64), torch.zeros(4, 1))
    field = guided_field(lambda t, z, c: z * t[:, None], nobody, [])
    torch.testing.assert_close(field(T, Z), Z * T)
