"""Things that cost much to make, kept while there is room; each is made once, whoever wants it first."""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol


class Sized(Protocol):
    """What knows its size in bytes."""

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class Claim[K: Hashable, V]:
    """Of some keys: what is there already, what the caller must now make, what other threads are making."""

    there: dict[K, V]
    mine: list[K]
    others: dict[K, Future[V]]


class Kept[K: Hashable, V: Sized]:
    """Values by key within ``budget_bytes``, the least recently claimed leaving first; safe to use from
    several threads. What is `Claim.mine` must be given to `deliver`, or its error to `fail`."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._bytes = 0
        self._values: OrderedDict[K, V] = OrderedDict()
        self._promised: dict[K, Future[V]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def claim(self, keys: Iterable[K]) -> Claim[K, V]:
        claim: Claim[K, V] = Claim({}, [], {})
        with self._lock:
            for key in keys:
                if key in self._values:
                    self._values.move_to_end(key)
                    claim.there[key] = self._values[key]
                elif key in self._promised:
                    claim.others[key] = self._promised[key]
                else:
                    self._promised[key] = Future()
                    claim.mine.append(key)
        return claim

    def deliver(self, key: K, value: V) -> None:
        """Keep what was made and hand it to the threads that wait for it."""
        with self._lock:
            promised = self._promised.pop(key)
            if value.nbytes <= self._budget:
                self._values[key] = value
                self._bytes += value.nbytes
            while self._bytes > self._budget:
                self._bytes -= self._values.popitem(last=False)[1].nbytes
        promised.set_result(value)

    def fail(self, keys: Iterable[K], error: BaseException) -> None:
        """Hand the error to the threads that wait for those of ``keys`` that were not delivered."""
        with self._lock:
            promised = [self._promised.pop(key) for key in keys if key in self._promised]
        for promise in promised:
            promise.set_exception(error)
