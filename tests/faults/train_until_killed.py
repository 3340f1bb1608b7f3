"""Train runs that are each killed (SIGKILL) at another moment. A program of its own: it forks.

    python -m tests.faults.train_until_killed DATA DIRECTORY MOMENT...

A moment is ``before:EVENT`` or ``after:EVENT``, and an event is something that training leaves on the disk:
``autoencoder-row-7`` (of metrics), ``flow-checkpoint-2``, ``flow-result``, ``latents``, ``model``. The run of
a moment is ``DIRECTORY/MOMENT``. ``DIRECTORY/whole`` is trained undisturbed first.
"""

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jobs.training.books
import jobs.training.encode
from tests.small_atlas import train_small

RARE_CHECKPOINTS = ("autoencoder.checkpoint_every_cells=600", "flow.checkpoint_every_cells=600")
NAMES = {"result.safetensors": "{stage}-result", "model": "model", "train.zarr": "latents"}


def train(data: Path, run: Path) -> Path:
    store = f"sqlite:///{run.parent / 'mlflow.db'}"
    return train_small("all", data=data, run=run, overrides=RARE_CHECKPOINTS, mlflow_uri=store)


def event_of(path: Path) -> str:
    """What becomes visible under this path."""
    if path.parent.name == "checkpoints":
        return f"{path.parents[1].name}-checkpoint"
    return NAMES.get(path.name, path.name).format(stage=path.parent.name)


class Killer:
    """Kills this process before or after the event of a moment; events of one name are numbered from 1."""

    def __init__(self, moment: str) -> None:
        self.when, _, self.event = moment.partition(":")
        self.seen: Counter[str] = Counter()

    def around(self, event: str, act: Callable[[], Any]) -> None:
        self.seen[event] += 1
        reached = self.event in (event, f"{event}-{self.seen[event]}")
        if reached and self.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        act()
        if reached and self.when == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    def lie_in_wait(self) -> None:
        rename, append, finish = (
            os.replace,
            jobs.training.books.append_metrics,
            jobs.training.encode.finish_latents,
        )

        def replace(source: Any, target: Any, **options: Any) -> None:
            # Zarr renames each of its files too; they are parts of latents that are still being written.
            if "latents" in Path(target).parts:
                return rename(source, target, **options)
            return self.around(event_of(Path(target)), lambda: rename(source, target, **options))

        def append_metrics(path: Any, row: Any) -> None:
            self.around(f"{row['stage']}-row", lambda: append(path, row))

        def finish_latents(path: Any) -> None:
            self.around(event_of(Path(path)), lambda: finish(path))

        os.replace = replace
        jobs.training.books.append_metrics = append_metrics
        jobs.training.encode.finish_latents = finish_latents


def in_a_fork(work: Callable[[], Any]) -> int:
    """Status of a child process that does ``work``."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1]


def train_and_die(data: Path, directory: Path, moment: str) -> None:
    Killer(moment).lie_in_wait()
    train(data, directory / moment)


def import_once() -> None:
    """For speed alone: what is imported before the forks is not imported in each of them."""
    import accelerate  # noqa: F401
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    import torch._dynamo
    import torch.distributed.fsdp  # noqa: F401


def main(data: Path, directory: Path, moments: list[str]) -> None:
    import_once()
    assert in_a_fork(partial(train, data, directory / "whole")) == 0
    for moment in moments:
        status = in_a_fork(partial(train_and_die, data, directory, moment))
        assert os.WTERMSIG(status) == signal.SIGKILL, (moment, status)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
