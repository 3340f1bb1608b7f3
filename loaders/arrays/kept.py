"""Things that cost much to make, kept while there is room; each is made once, whoever wants it first."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol


class Sized(Protocol):
    """What knows its size in bytes."""

    @property
    def nbytes(self) -> int: ...


class Kept[K: Hashable, V: Sized]:
    """Values by key within ``budget_bytes``, the least recently wanted leaving first; safe to use from
    several threads."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._bytes = 0
        self._values: OrderedDict[K, V] = OrderedDict()
        self._promised: dict[K, Future[Mapping[K, V]]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, keys: Sequence[K], make: Callable[[list[K]], Mapping[K, V]], *, at_once: int) -> dict[K, V]:
        """The values of ``keys``, those that are not there from ``make``.

        Up to ``at_once`` keys are made by one call, and only then the next ones claimed: threads that want
        the same values share the work. What another thread is making is waited for last, and made here if
        that thread failed. Errors of ``make`` are raised; the keys can then be asked for again.
        """
        found = self._there(keys)
        missing = [key for key in keys if key not in found]
        others: list[tuple[K, Future[Mapping[K, V]]]] = []
        for begin in range(0, len(missing), at_once):
            there, mine, promised = self._claim(missing[begin : begin + at_once])
            found |= there
            others += promised
            if mine:
                found |= self._made(mine, make)
        for key, promise in others:
            # What spoiled the other thread's call may have been another key.
            found |= self.get([key], make, at_once=1) if promise.exception() else promise.result()
        return found

    def _there(self, keys: Sequence[K]) -> dict[K, V]:
        with self._lock:
            there = {key: self._values[key] for key in keys if key in self._values}
            for key in there:
                self._values.move_to_end(key)
        return there

    def _claim(self, keys: list[K]) -> tuple[dict[K, V], list[K], list[tuple[K, Future[Mapping[K, V]]]]]:
        """What is there by now, what the caller must make, what other threads are making."""
        there: dict[K, V] = {}
        mine: list[K] = []
        others: list[tuple[K, Future[Mapping[K, V]]]] = []
        promise: Future[Mapping[K, V]] = Future()
        with self._lock:
            for key in keys:
                if key in self._values:
                    there[key] = self._values[key]
                elif key in self._promised:
                    others.append((key, self._promised[key]))
                else:
                    self._promised[key] = promise
                    mine.append(key)
        return there, mine, others

    def _made(self, keys: list[K], make: Callable[[list[K]], Mapping[K, V]]) -> Mapping[K, V]:
        """Make and keep the values of ``keys``, and hand them, or the error, to the threads that wait."""
        try:
            values = make(keys)
        except BaseException as error:
            self._fulfilled(keys).set_exception(error)
            raise
        self._fulfilled(keys, values).set_result(values)
        return values

    def _fulfilled(self, keys: list[K], values: Mapping[K, V] | None = None) -> Future[Mapping[K, V]]:
        """The promise of ``keys``, which is one no more."""
        with self._lock:
            promises = [self._promised.pop(key) for key in keys]
            for key, value in (values or {}).items():
                if value.nbytes <= self._budget:
                    self._values[key] = value
                    self._bytes += value.nbytes
            while self._bytes > self._budget:
                self._bytes -= self._values.popitem(last=False)[1].nbytes
        return promises[0]
