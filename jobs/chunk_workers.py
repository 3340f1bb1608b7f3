"""Who writes the chunks of a generated atlas: this process, or Ray actors that share its file system.

Both yield a `Receipt` for every chunk written, in the order in which they are done; the bytes of a chunk do
not depend on who wrote it.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .plan import Chunk, Plan

if TYPE_CHECKING:
    from cfgen_scale.model import CFGen
    from loaders.writer import PartialAtlas

LOST_WORKERS = 8


@dataclass(frozen=True)
class Receipt:
    """A chunk was written: its index, its number of cells, and the process that did it."""

    index: int
    cells: int
    pid: int


def write_chunk(model: "CFGen", plan: Plan, partial: "PartialAtlas", chunk: Chunk) -> Receipt:
    """Draw the cells of one chunk and write them; all random numbers are keyed by (seed, chunk index)."""
    group = plan.request.groups[chunk.group]
    weights = plan.weights[chunk.group]
    with _one_thread():
        labels = model.draw_labels(chunk.cells, group.told, group.untold, seed=plan.seed, index=chunk.index)
        cells = model.generate_cells(
            labels, guidance=weights, seed=plan.seed, index=chunk.index, ode=plan.ode
        )
    partial.write_chunk(chunk.index, cells, model.schema, group=chunk.group)
    return Receipt(chunk.index, chunk.cells, os.getpid())


def write_here(
    model: "CFGen", plan: Plan, partial: "PartialAtlas", chunks: Sequence[Chunk]
) -> Iterator[Receipt]:
    """Write the chunks in this process, one after the other."""
    for chunk in chunks:
        yield write_chunk(model, plan, partial, chunk)


def write_with_ray(
    model_path: str | Path, plan: Plan, partial: "PartialAtlas", chunks: Sequence[Chunk], *, workers: int
) -> Iterator[Receipt]:
    """Write the chunks in ``workers`` Ray actors, each with one CPU (and one GPU if the plan is for cuda).

    An actor takes the next chunk when it is done with one. The chunk of an actor that is lost is given to
    another; after more than ``LOST_WORKERS`` losses RuntimeError is raised. An error in drawing or writing
    is raised as it is.
    """
    import ray

    resources = {"num_cpus": 1, "num_gpus": 1 if plan.device == "cuda" else 0}
    worker = ray.remote(**resources)(ChunkWorker)
    crew = _Crew(
        lambda: worker.remote(str(Path(model_path).absolute()), plan, partial), min(workers, len(chunks))
    )
    waiting = deque(chunks)
    try:
        while waiting or crew.is_writing:
            actor, chunk, receipt = crew.next_answer()
            if actor is None and chunk is not None:
                waiting.appendleft(chunk)
            if actor is not None and waiting:
                crew.give(actor, waiting.popleft())
            if receipt is not None:
                yield receipt
    finally:
        crew.dismiss()


class _Crew:
    """Actors, and what each is doing; an actor that is lost is replaced."""

    def __init__(self, hire: Callable[[], Any], n_actors: int) -> None:
        self._hire, self._lost = hire, 0
        # Task -> its actor and chunk. The first task of an actor is to be ready, and only then does it get
        # a chunk: an actor that the cluster has no place for holds none back.
        self._tasks: dict[Any, tuple[Any, Chunk | None]] = {}
        for _ in range(n_actors):
            self._start()

    def _start(self) -> None:
        actor = self._hire()
        self._tasks[actor.ready.remote()] = (actor, None)

    @property
    def is_writing(self) -> bool:
        return any(chunk is not None for _, chunk in self._tasks.values())

    def give(self, actor: Any, chunk: Chunk) -> None:
        self._tasks[actor.write.remote(chunk)] = (actor, chunk)

    def next_answer(self) -> tuple[Any, Chunk | None, Receipt | None]:
        """Wait for a task to end: its actor (None if it was lost), its chunk, and the receipt."""
        import ray

        (done,), _ = ray.wait(list(self._tasks), num_returns=1)
        actor, chunk = self._tasks.pop(done)
        try:
            return actor, chunk, ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayActorError as error:
            self._lost += 1
            if self._lost > LOST_WORKERS:
                raise RuntimeError(f"{self._lost} generation workers were lost. The last: {error}") from error
            self._start()
            return None, chunk, None

    def dismiss(self) -> None:
        import ray

        for actor, _ in self._tasks.values():
            ray.kill(actor)


class ChunkWorker:
    """The actor: loads the model once, then writes the chunks it is given."""

    def __init__(self, model_path: str, plan: Plan, partial: "PartialAtlas") -> None:
        self._model_path, self._plan, self._partial = model_path, plan, partial

    def ready(self) -> None:
        """Load the model; here and not in the constructor, so that an error is raised as it is."""
        from cfgen_scale.model import CFGen

        self._model = CFGen.load(self._model_path, self._plan.device)

    def write(self, chunk: Chunk) -> Receipt:
        """Write one chunk."""
        return write_chunk(self._model, self._plan, self._partial, chunk)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One intra-op thread: sums are split by threads, so that their number would change the last bits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
