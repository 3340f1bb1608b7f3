"""Checkpoints are written while training goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self


class CheckpointWriter:
    """Writes one checkpoint at a time in a thread of its own.

    A context manager: on leaving, also by an error, the checkpoint under way is completed. An error of the
    writing is raised at the next ``write`` or on leaving, wherever it is seen first; it stops the stage,
    which could not be resumed from where it says it is.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[Path] | None = None

    def write(self, save: Callable[[], Path]) -> Future[Path]:
        """Begin ``save`` when the one before is complete; the result is the path of the checkpoint, once it
        can be read. ``save`` must own what it writes: training changes the weights meanwhile."""
        self.wait()
        self._under_way = self._thread.submit(save)
        return self._under_way

    def wait(self) -> None:
        """Return when nothing is under way. Raises what the writing raised, once."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except Exception as failed:
            if error is None:
                raise
            error.add_note(f"The last checkpoint could not be written either: {failed}")
        finally:
            self._thread.shutdown()
