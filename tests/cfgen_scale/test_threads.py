"""Loops shared among threads: every index once, errors raised."""

import threading

import pytest
import torch

from cfgen_scale.threads import in_parts


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("n", [0, 1, 2, 10])
def test_parts_make_up_the_whole(threads, n):
    done, lock = [], threading.Lock()

    def work(part, first, last):
        with lock:
            done.append((part, list(range(first, last))))

    in_parts(n, work)
    assert [part for part, _ in sorted(done)] == list(range(max(1, min(threads, n))))
    assert [i for _, some in sorted(done) for i in some] == list(range(n))


def test_an_error_of_any_part_is_raised(threads):
    def work(part, first, last):
        if last == 10:
            raise ValueError("in the last part")

    with pytest.raises(ValueError, match="in the last part"):
        in_parts(10, work)
