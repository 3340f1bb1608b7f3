import torch

from cfgen_scale.types import Condition


def condition(labels, log_l=4.0):
    labels = torch.tensor(labels)
    return Condition(labels, torch.full((len(labels), 1), log_l))


T, Z = torch.tensor([0.2, 0.6]), torch.randn(2, 5, generator=torch.Generator().manual_seed(0))


def test_embeddings_are_parameters(model_of):
    """The authors keep attribute embeddings in a dict, where no optimiser, checkpoint or DDP sees them."""
    velocity = model_of().velocity
    names = dict(velocity.named_parameters())
    assert names["attributes.0.weight"].shape == (4, 8)
    assert names["attributes.1.weight"].shape == (2, 8)
    assert set(names) <= set(velocity.state_dict())


def test_every_parameter_has_a_gradient_even_if_nothing_is_told(model_of):
    """DDP waits for the gradient of every parameter on every worker."""
    velocity = model_of(size_factor_told=True).velocity
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
    velocity = model_of().velocity
    torch.testing.assert_close(
        velocity(T, Z, condition([[0, 0]] * 2, 3.0)),
        velocity(T, Z, condition([[0, 0]] * 2, 5.0)),
        atol=0,
        rtol=0,
    )


def test_a_cell_does_not_depend_on_the_others(model_of):
    velocity = model_of().velocity
    both = velocity(T, Z, condition([[0, 1], [2, -1]]))
    alone = velocity(T[1:], Z[1:], condition([[2, -1]]))
    torch.testing.assert_close(both[1:], alone, atol=1e-6, rtol=1e-6)
