"""How long each part of a job took, told by the steps that it announces."""

import time
from collections.abc import Callable
from typing import Any


class Stopwatch:
    """Passes announcements on to ``hear`` and books the seconds until the next one on each."""

    def __init__(self, hear: Callable[[str], None]) -> None:
        self._hear, self._began = hear, time.monotonic()
        self._steps: list[tuple[str, float]] = []

    def __call__(self, step: str) -> None:
        self._steps.append((step, time.monotonic()))
        self._hear(step)

    def seconds(self) -> dict[str, Any]:
        """``{"total": s, "parts": {step: s}}`` until now."""
        now = time.monotonic()
        ends = [when for _, when in self._steps[1:]] + [now]
        parts = {step: round(end - when, 3) for (step, when), end in zip(self._steps, ends, strict=True)}
        return {"total": round(now - self._began, 3), "parts": parts}
