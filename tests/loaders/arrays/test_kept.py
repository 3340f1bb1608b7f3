import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from loaders.arrays.kept import Kept


@dataclass
class Thing:
    nbytes: int


class Maker:
    """Makes things of a size, and remembers by which calls."""

    def __init__(self, nbytes: int = 5) -> None:
        self.nbytes = nbytes
        self.calls: list[list[str]] = []

    def __call__(self, keys: list[str]) -> dict[str, Thing]:
        self.calls.append(keys)
        return {key: Thing(self.nbytes) for key in keys}


def test_the_least_recently_wanted_leaves_first() -> None:
    kept: Kept[str, Thing] = Kept(10)
    make = Maker()
    first = kept.get("ab", make, at_once=2)
    assert kept.get("a", make, at_once=2)["a"] is first["a"]
    kept.get("c", make, at_once=2)
    kept.get("ac", make, at_once=2)
    assert make.calls == [["a", "b"], ["c"]]
    kept.get("abc", make, at_once=2)
    assert make.calls[2:] == [["b"]]


def test_so_many_are_made_by_one_call() -> None:
    kept: Kept[str, Thing] = Kept(100)
    make = Maker()
    kept.get("b", make, at_once=2)
    assert set(kept.get("abcdefg", make, at_once=3)) == set("abcdefg")
    assert make.calls[1:] == [["a", "c", "d"], ["e", "f", "g"]]


def test_what_is_larger_than_the_budget_is_handed_over_and_not_kept() -> None:
    kept: Kept[str, Thing] = Kept(10)
    make = Maker(11)
    assert kept.get("a", make, at_once=1)["a"].nbytes == 11
    assert len(kept) == 0
    kept.get("a", make, at_once=1)
    assert make.calls == [["a"], ["a"]]


class Held(Maker):
    """Says when it is making, and waits to be told to go on."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.making, self.may_end = threading.Event(), threading.Event()
        self.error = error

    def __call__(self, keys: list[str]) -> dict[str, Thing]:
        self.making.set()
        assert self.may_end.wait(10)
        if self.error:
            raise self.error
        return super().__call__(keys)


def test_each_is_made_by_one_thread_and_others_do_the_rest_meanwhile() -> None:
    kept: Kept[str, Thing] = Kept(100)
    first, second = Held(), Maker()
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(kept.get, "ab", first, at_once=2)
        assert first.making.wait(10)
        other = threads.submit(kept.get, "abc", second, at_once=2)
        while ["c"] not in second.calls:
            assert not other.done()
        first.may_end.set()
        assert other.result(10)["a"] is one.result(10)["a"]
    assert first.calls == [["a", "b"]]
    assert second.calls == [["c"]]


def test_who_waited_for_a_thread_that_failed_tries_it_alone() -> None:
    kept: Kept[str, Thing] = Kept(100)
    failing, waiting = Held(OSError("unreadable")), Maker()
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(kept.get, "ab", failing, at_once=2)
        assert failing.making.wait(10)
        other = threads.submit(kept.get, "bc", waiting, at_once=2)
        while ["c"] not in waiting.calls:
            assert not other.done()
        failing.may_end.set()
        with pytest.raises(OSError, match="unreadable"):
            one.result(10)
        assert set(other.result(10)) == set("bc")
    assert waiting.calls == [["c"], ["b"]]
    assert set(kept.get("abc", waiting, at_once=3)) == set("abc")
