"""Identities of compositional guidance (Eq. 8)."""

import pytest
import torch

from cfgen_scale.guidance import guided_field
from cfgen_scale.ode import OdeConfig, integrate
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
def at(velocity, condition, weights, told="one"):
    return guided_field(velocity, condition, weights, told=told)(T, Z)


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


def test_told_of_all_attributes_one_weight_pulls_to_their_joint_condition(velocity, condition):
    u, joint = plain(velocity, condition.untold()), plain(velocity, condition)
    torch.testing.assert_close(at(velocity, condition, [0.0, 0.0], "all"), u)
    torch.testing.assert_close(at(velocity, condition, [1.0, 1.0], "all"), joint)
    torch.testing.assert_close(at(velocity, condition, [2.5, 2.5], "all"), u + 2.5 * (joint - u))
    with pytest.raises(ValueError, match=r"one guidance weight, not 2, 0 .*attributes_told=subset"):
        at(velocity, condition, [2.0, 0.0], "all")


def test_told_of_subsets_any_of_them_can_be_told(velocity, condition):
    """Weights of 1 for some attributes and 0 for the others: the field of their joint condition."""
    for weights, told in (
        ([0.0, 0.0], condition.untold()),
        ([1.0, 0.0], condition.only(0)),
        ([0.0, 1.0], condition.only(1)),
        ([1.0, 1.0], condition),
    ):
        torch.testing.assert_close(at(velocity, condition, weights, "subset"), plain(velocity, told))


def test_told_of_subsets_weights_nest_them(velocity, condition):
    u, joint = plain(velocity, condition.untold()), plain(velocity, condition)
    second = plain(velocity, condition.only(1))
    expected = u + (3.0 - 0.5) * (second - u) + 0.5 * (joint - u)
    torch.testing.assert_close(at(velocity, condition, [0.5, 3.0], "subset"), expected)
    for weight in (0.7, 2.0):
        same, equal = (at(velocity, condition, [weight] * 2, told) for told in ("all", "subset"))
        torch.testing.assert_close(same, equal)
    near = at(velocity, condition, [1.0, 1.0 + 1e-4], "subset")
    torch.testing.assert_close(near, at(velocity, condition, [1.0 + 1e-4, 1.0], "subset"), atol=1e-3, rtol=0)


def test_where_pulls_add_up_subsets_are_equation_8():
    """A velocity that is a sum over the attributes told, with three of them."""
    pulls = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))

    def additive(t, z, c):
        return sum(pulls[k][c.labels[:, k]] * (c.labels[:, k] >= 0)[:, None] for k in range(3)) + z

    labels = torch.tensor([[0, 1, 2], [3, -1, 0], [1, 1, 1], [-1, -1, 2]])
    condition = Condition(labels, torch.zeros(4, 1))
    for weights in ([2.0, -0.5, 0.7], [0.0, 3.0, 3.0], [-1.0, -2.0, 0.5]):
        one, subset = (at(additive, condition, weights, told) for told in ("one", "subset"))
        torch.testing.assert_close(one, subset)


@pytest.mark.parametrize("told", ["one", "subset"])
def test_outside_of_the_interval_nothing_is_made_more_of_what_is_told(velocity, condition, told):
    weights, without = [2.5, -1.0], [1.0, 0.0]
    field = guided_field(velocity, condition, weights, told=told, interval=(0.25, 0.75))
    with torch.no_grad():
        for t in (0.25, 0.5, 0.75):
            expected = guided_field(velocity, condition, weights, told=told)(torch.tensor(t), Z)
            torch.testing.assert_close(field(torch.tensor(t), Z), expected)
        for t in (0.0, 0.24, 0.76, 1.0):
            expected = guided_field(velocity, condition, without, told=told)(torch.tensor(t), Z)
            torch.testing.assert_close(field(torch.tensor(t), Z), expected)


def test_guidance_in_an_interval_moves_cells_for_as_long():
    """A velocity of 1 where told, 0 where not: weight 3 for half of the time, 1 for the other, 2 in all."""
    told = Condition(torch.zeros(4, 1, dtype=torch.int64), torch.zeros(4, 1))
    field = guided_field(
        lambda t, z, c: (c.labels >= 0).float().expand_as(z), told, [3.0], interval=(0.25, 0.75)
    )
    config = OdeConfig("midpoint", steps=20)
    arrived = integrate(field, Z, config=config)
    torch.testing.assert_close(arrived, Z + 2)
    torch.testing.assert_close(integrate(field, arrived, start=1.0, end=0.0, config=config), Z)
