from dataclasses import dataclass

import pytest

from loaders.kept import Kept


@dataclass
class Thing:
    nbytes: int


def put(kept: Kept[str, Thing], key: str, nbytes: int) -> Thing:
    assert kept.claim([key]).mine == [key]
    thing = Thing(nbytes)
    kept.deliver(key, thing)
    return thing


def test_the_least_recently_claimed_leaves_first() -> None:
    kept: Kept[str, Thing] = Kept(10)
    a, _ = put(kept, "a", 5), put(kept, "b", 5)
    assert kept.claim(["a"]).there == {"a": a}
    put(kept, "c", 5)
    claim = kept.claim(["a", "b", "c"])
    assert set(claim.there) == {"a", "c"}
    assert claim.mine == ["b"]


def test_what_is_larger_than_the_budget_is_handed_over_and_not_kept() -> None:
    kept: Kept[str, Thing] = Kept(10)
    kept.claim(["a"])
    waiting = kept.claim(["a"]).others["a"]
    thing = Thing(11)
    kept.deliver("a", thing)
    assert waiting.result(timeout=1) is thing
    assert kept.claim(["a"]).mine == ["a"]


def test_each_is_made_by_one_and_an_error_reaches_all_who_wait() -> None:
    kept: Kept[str, Thing] = Kept(10)
    assert kept.claim(["a", "b"]).mine == ["a", "b"]
    second = kept.claim(["a", "b", "c"])
    assert second.mine == ["c"]
    kept.deliver("a", Thing(1))
    kept.fail(["a", "b"], OSError("unreadable"))
    assert second.others["a"].result(timeout=1).nbytes == 1
    with pytest.raises(OSError, match="unreadable"):
        second.others["b"].result(timeout=1)
    assert kept.claim(["b"]).mine == ["b"]
