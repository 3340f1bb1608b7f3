"""A listener that may fail for a while, and in the end has heard everything."""

import time
from collections.abc import Callable, Sequence
from textwrap import shorten
from typing import Any

PAUSES = (5.0, 300.0)
AT_THE_END = 60.0


class Patient:
    """Tells rows to a listener; where that fails (a tracking server is down) they are kept and told later.

    say         is told once that rows are kept, and once that they are not any more
    pauses      seconds between attempts: they double, from the first to the second of these
    at_the_end  seconds for which the last rows are tried when nothing else is left to do
    """

    def __init__(
        self,
        listener: Callable[[Sequence[dict[str, Any]]], None],
        *,
        say: Callable[[str], None],
        pauses: tuple[float, float] = PAUSES,
        at_the_end: float = AT_THE_END,
    ) -> None:
        self.listener, self.say, self.pauses, self.at_the_end = listener, say, pauses, at_the_end
        self._kept: list[dict[str, Any]] = []
        self._next, self._pause = 0.0, pauses[0]
        self._error: Exception | None = None

    def hear(self, rows: Sequence[dict[str, Any]]) -> None:
        """Take these rows, and tell them with those kept, unless the listener has just failed."""
        self._kept += rows
        if time.monotonic() >= self._next:
            self._try()

    def finish(self) -> None:
        """Tell what is kept. Raises RuntimeError if that fails for as long as ``at_the_end`` says."""
        until = time.monotonic() + self.at_the_end
        while self._kept:
            self._try()
            if self._error is not None and time.monotonic() >= until:
                raise RuntimeError(
                    f"training has ended, but its metrics could not be logged ({_short(self._error)}). They "
                    "are kept with the run: the same command again logs them."
                ) from self._error
            if self._kept:
                time.sleep(max(0.0, min(self.pauses[0], until - time.monotonic())))

    def _try(self) -> None:
        try:
            self.listener(tuple(self._kept))
        except Exception as error:
            if self._error is None:
                self.say(f"metrics cannot be logged ({_short(error)}): they are kept and tried again.")
            self._error = error
            self._next, self._pause = time.monotonic() + self._pause, min(2 * self._pause, self.pauses[1])
            return
        if self._error is not None:
            self.say(f"metrics are logged again, and {len(self._kept)} rows that were kept.")
        self._kept, self._error, self._next, self._pause = [], None, 0.0, self.pauses[0]


def _short(error: Exception) -> str:
    return shorten(f"{type(error).__name__}: {error}", 120, placeholder=" ...")
