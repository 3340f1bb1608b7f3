import torch

from cfgen_scale.randomness import generator


def test_a_draw_is_named_by_its_address():
    def draw(*address):
        return torch.rand(4, generator=generator(*address)).tolist()

    assert draw(0, "noise", 3) == draw(0, "noise", 3)
    others = [draw(1, "noise", 3), draw(0, "labels", 3), draw(0, "noise", 4), draw(0, "noise", 3, 0)]
    assert all(other != draw(0, "noise", 3) for other in others)


def test_the_ambient_stream_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    torch.rand(5, generator=generator(0, "noise"))
    assert torch.rand(1) == expected
