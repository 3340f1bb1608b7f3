"""Generate atlases that are each killed (SIGKILL) at another moment. A program of its own: it forks.

    python -m tests.faults.generate_until_killed MODEL DIRECTORY

What a generation leaves on the disk only counts once it is renamed, so that renames are the moments that
matter. ``DIRECTORY/before_N.zarr`` is killed right before its Nth rename, ``after_N.zarr`` right after, for
every N there is. Prints the number of renames of an undisturbed run.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# Some of these are for speed alone: what is imported before the forks is not imported in each of them.
import torchdyn.numerics  # noqa: F401

import cfgen_scale.model  # noqa: F401
import jobs.generation.generate
import loaders.atlases.assembly  # noqa: F401
from jobs.generation.request import Group, Request

REQUEST = Request((Group(50, told={"cell_type": "B"}), Group(40)))
CHUNK_CELLS = 20


def generate(model: Path, out: Path) -> Path:
    return jobs.generation.generate.generate_atlas(
        model, out, REQUEST, chunk_cells=CHUNK_CELLS, progress=False
    )


class Renames:
    """Counts renames, and kills this process around the one that is chosen."""

    def __init__(self, *, kill_before: int = 0, kill_after: int = 0) -> None:
        self.count = 0
        self._kill_before, self._kill_after = kill_before, kill_after
        self._rename, self._one_at_a_time = os.rename, threading.Lock()  # two chunks are written at once
        os.replace = os.rename = self  # type: ignore[assignment]

    def __call__(self, source: Any, target: Any, **options: Any) -> None:
        # Zarr renames each of its files too; they are parts of an atlas that is still being built.
        if "atlas.zarr" in Path(source).parts[:-1]:
            self._rename(source, target, **options)
            return
        with self._one_at_a_time:
            self.count += 1
            if self.count == self._kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            self._rename(source, target, **options)
            if self.count == self._kill_after:
                os.kill(os.getpid(), signal.SIGKILL)


def in_a_fork(work: Callable[[], int]) -> int:
    """Status of a child process that does ``work`` and exits with its result."""
    child = os.fork()
    if child == 0:
        os._exit(work())
    return os.waitpid(child, 0)[1]


def count_renames(model: Path, out: Path) -> int:
    renames = Renames()
    generate(model, out)
    return renames.count


def generate_and_die(model: Path, out: Path, moment: dict[str, int]) -> int:
    Renames(**moment)
    generate(model, out)
    return 0


def main(model: Path, directory: Path) -> None:
    undisturbed = directory / "undisturbed.zarr"
    total = os.waitstatus_to_exitcode(in_a_fork(partial(count_renames, model, undisturbed)))
    for n in range(1, total + 1):
        for when in ("before", "after"):
            out = directory / f"{when}_{n}.zarr"
            status = in_a_fork(partial(generate_and_die, model, out, {f"kill_{when}": n}))
            assert os.WTERMSIG(status) == signal.SIGKILL, (out, status)
    print(total)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
