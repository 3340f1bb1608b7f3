import pytest
import torch

from cfgen_scale.types import Condition
from cfgen_scale.velocity import Velocity, VelocityConfig


def condition(labels, log_l=4.0):
    labels = torch.tensor(labels)
    return Condition(labels, torch.full((len(labels), 1), log_l))


T, Z = torch.tensor([0.2, 0.6]), torch.randn(2, 5, generator=torch.Generator().manual_seed(0))


def test_embeddings_are_parameters(model_of):
    """The authors keep attribute embeddings in a dict, where no optimiser, checkpoint or DDP sees them."""
    velocity = model_of(size_factors="log_normal").velocity
    names = dict(velocity.named_parameters())
    assert names["attributes.0.weight"].shape == (4, 8)
    assert names["attributes.1.weight"].shape == (2, 8)
    assert set(names) <= set(velocity.state_dict())


@pytest.mark.parametrize("skip", ["none", "linear", "scaled"])
def test_every_parameter_has_a_gradient_even_if_nothing_is_told(model_of, skip):
    """DDP waits for the gradient of every parameter on every worker."""
    velocity = model_of(size_factor_told=True, skip=skip).velocity
    velocity(T, Z, condition([[-1, -1], [-1, -1]])).sum().backward()
    assert all(p.grad is not None for p in velocity.parameters())


def test_labels_time_and_size_factor_are_heard(model_of):
    velocity = model_of(size_factor_told=True).velocity
    base = velocity(T, Z, condition([[0, 0], [0, 0]]))
    for other in (
        velocity(T, Z, condition([[1, 0], [2, 0]])),
        velocity(T, Z, condition([[0, -1], [0, 1]])),
        velocity(T + 0.1, Z, condition([[0, 0], [0, 0]])),
        velocity(T, Z, condition([[0, 0], [0, 0]], log_l=5.0)),
    ):
        assert ((other - base).abs().amax(1) > 1e-4).all()


def test_size_factor_is_not_heard_unless_asked(model_of):
    velocity = model_of(size_factors="log_normal").velocity
    torch.testing.assert_close(
        velocity(T, Z, condition([[0, 0]] * 2, 3.0)),
        velocity(T, Z, condition([[0, 0]] * 2, 5.0)),
        atol=0,
        rtol=0,
    )


def test_a_cell_does_not_depend_on_the_others(model_of):
    velocity = model_of(size_factors="log_normal").velocity
    both = velocity(T, Z, condition([[0, 1], [2, -1]]))
    alone = velocity(T[1:], Z[1:], condition([[2, -1]]))
    torch.testing.assert_close(both[1:], alone, atol=1e-6, rtol=1e-6)


def narrow(skip):
    config = VelocityConfig(width=2, blocks=1, embedding=16, skip=skip)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Velocity(config, latent=6, n_categories=[2], log_size_range=torch.tensor([[0.0, 1.0]]))


def of_many(velocity, t=0.5):
    z = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    return z, velocity(torch.full((200,), t), z, condition([[0]] * 200))


@pytest.mark.parametrize("skip", ["linear", "scaled"])
def test_a_skip_begins_at_zero_beside_the_same_network(skip):
    torch.testing.assert_close(of_many(narrow(skip))[1], of_many(narrow("none"))[1], atol=0, rtol=0)


def test_a_skip_reaches_the_directions_that_a_narrow_network_cannot():
    """Two hidden units: without a skip the velocity of z has no more than two directions, and a bias."""
    skipping = narrow("linear")
    with torch.no_grad():
        skipping.skip.linear.weight.copy_(torch.eye(6))
    ranks = [
        torch.linalg.matrix_rank(u - u.mean(0), rtol=1e-3).item()
        for _, u in (of_many(narrow("none")), of_many(skipping))
    ]
    assert ranks == [2, 6]


def learnt(skip):
    """Loss of a narrow network at the end of a short training, over that at its beginning, on normal data.

    Of standard deviation s in a direction: u = z (t s^2 - (1 - t)) / (t^2 s^2 + (1 - t)^2).
    """
    velocity, s = narrow(skip), torch.tensor([0.2, 0.5, 1.0, 1.0, 1.5, 2.0])
    optimiser = torch.optim.Adam(velocity.parameters(), lr=5e-3)
    random = torch.Generator().manual_seed(0)
    times, told = torch.arange(1, 512) / 512, condition([[0]] * 511)
    t, losses = times[:, None], []
    for _ in range(300):
        z = torch.randn(511, 6, generator=random)
        exact = z * (t * s**2 - (1 - t)) / (t**2 * s**2 + (1 - t) ** 2)
        loss = (velocity(times, z, told) - exact).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return sum(losses[-20:]) / sum(losses[:20])


def test_a_scaled_skip_is_the_velocity_of_a_normal_distribution():
    assert learnt("scaled") < 0.01
    assert learnt("none") > 0.2


@pytest.mark.parametrize("size_factor_told", [False, True])
@pytest.mark.parametrize("skip", ["none", "scaled"])
def test_cells_at_one_time_move_as_if_each_had_its_own(model_of, size_factor_told, skip):
    """At one time what is told is computed once for each combination of labels."""
    velocity = model_of(size_factors="log_normal", size_factor_told=size_factor_told, skip=skip).velocity
    labels = torch.tensor([[0, 1], [2, -1], [0, 1], [-1, -1], [2, 0], [0, 1]])
    told = Condition(labels, torch.linspace(3, 5, 6)[:, None])
    z = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    at_one, each = torch.tensor(0.3).expand(6), torch.full((6,), 0.3)
    torch.testing.assert_close(velocity(at_one, z, told), velocity(each, z, told), atol=1e-6, rtol=1e-6)
    assert len(velocity.condition_vectors(at_one, told).distinct) == (6 if size_factor_told else 4)


@pytest.mark.parametrize("cells", [1, 6])
def test_cells_without_attributes_at_one_time(cells):
    velocity = Velocity(
        VelocityConfig(width=8, blocks=1, embedding=8),
        latent=5,
        n_categories=(),
        log_size_range=torch.ones(1, 2),
    )
    told = Condition(torch.zeros(cells, 0, dtype=torch.int64), torch.zeros(cells, 1))
    z, t = torch.randn(cells, 5, generator=torch.Generator().manual_seed(1)), torch.tensor(0.3)
    at_one, each = velocity(t.expand(cells), z, told), velocity(torch.full((cells,), 0.3), z, told)
    torch.testing.assert_close(at_one, each, atol=1e-6, rtol=1e-6)
