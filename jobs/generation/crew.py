"""Who does the jobs of a generated atlas: this process, or Ray actors that share its file system.

A job is one call of a method of `AtlasWorker`; both kinds of crew take jobs from an iterator, ``AT_ONCE`` for
each worker, and yield receipts as they are done.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

from ..cluster import cluster
from .chunk_workers import AT_ONCE, AtlasWorker, Receipt, ShardTask, ShardWriter
from .plan import Chunk


class Crew(Protocol):
    """Workers that do jobs. An error in a job is raised as it is."""

    @property
    def decodes(self) -> bool:
        """Whether chunks are decoded from latents that are stored."""
        ...

    def machine(self) -> dict[str, str]:
        """What decides the last bits where a worker draws (shaping.py)."""
        ...

    def write(self, chunks: Iterable[Chunk]) -> Iterator[Receipt]:
        """Make and write chunks."""
        ...

    def assemble[Task: ShardTask](
        self, tasks: Iterable[Task], writer: ShardWriter[Task]
    ) -> Iterator[Receipt]:
        """Write shards or slabs."""
        ...

    def leave_gpus(self, jobs: int) -> None:
        """Give GPUs back: so many jobs are left, which need none, but all CPUs that there are."""
        ...


@contextmanager
def crew_of(worker: AtlasWorker, *, workers: int, progress: bool = False) -> Iterator[Crew]:
    """A crew of so many Ray actors, or of this process for 0; dismissed when the block is left."""
    if not workers:
        yield Alone(worker)
        return
    from .ray_crew import RayCrew

    with cluster(workers):
        crew = RayCrew(worker, workers, progress)
        try:
            yield crew
        finally:
            crew.dismiss()


class Alone:
    """Threads of this process, of which one draws."""

    def __init__(self, worker: AtlasWorker) -> None:
        self._worker = worker
        self.decodes = worker.decodes

    def machine(self) -> dict[str, str]:
        return self._worker.machine()

    def write(self, chunks: Iterable[Chunk]) -> Iterator[Receipt]:
        return self._run(self._worker.write, chunks)

    def assemble[Task: ShardTask](
        self, tasks: Iterable[Task], writer: ShardWriter[Task]
    ) -> Iterator[Receipt]:
        return self._run(lambda task: self._worker.assemble(task, writer), tasks)

    def leave_gpus(self, jobs: int) -> None:
        """Nothing: this process keeps what it has until it ends."""

    def _run[Job](self, call: Callable[[Job], Receipt], jobs: Iterable[Job]) -> Iterator[Receipt]:
        begun: deque[Future[Receipt]] = deque()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for job in jobs:
                if len(begun) == AT_ONCE:
                    yield begun.popleft().result()
                begun.append(threads.submit(call, job))
            while begun:
                yield begun.popleft().result()
