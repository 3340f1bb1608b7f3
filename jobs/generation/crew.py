"""Who does the jobs of a generated atlas: this process, or Ray actors that share its file system.

A job is one call of a method of `AtlasWorker`; both kinds of crew take jobs from an iterator, ``AT_ONCE`` for
each worker, and yield receipts as they are done.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

from ..cluster import cluster
from .chunk_workers import AT_ONCE, AtlasWorker, Receipt

LOST_WORKERS = 8


class Crew(Protocol):
    """Workers that do jobs."""

    def run(self, method: str, jobs: Iterable[Any], *shared: Any) -> Iterator[Receipt]:
        """Call ``method`` of some worker with each job and what all jobs share. An error in a job is raised
        as it is."""
        ...

    def leave_gpus(self, jobs: int) -> None:
        """Give GPUs back: so many jobs are left, which need none, but all CPUs that there are."""
        ...


@contextmanager
def crew_of(worker: AtlasWorker, *, workers: int) -> Iterator[Crew]:
    """A crew of so many Ray actors, or of this process for 0; dismissed when the block is left."""
    if not workers:
        yield Alone(worker)
        return
    with cluster(workers):
        crew = RayCrew(worker, workers)
        try:
            yield crew
        finally:
            crew.dismiss()


class Alone:
    """Threads of this process, of which one draws."""

    def __init__(self, worker: AtlasWorker) -> None:
        self._worker = worker

    def run(self, method: str, jobs: Iterable[Any], *shared: Any) -> Iterator[Receipt]:
        begun: deque[Future[Receipt]] = deque()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for job in jobs:
                if len(begun) == AT_ONCE:
                    yield begun.popleft().result()
                begun.append(threads.submit(getattr(self._worker, method), job, *shared))
            while begun:
                yield begun.popleft().result()

    def leave_gpus(self, jobs: int) -> None:
        """Nothing: this process keeps what it has until it ends."""


class RayCrew:
    """``workers`` actors, each with one CPU (and one GPU if the plan is for cuda), and what each is doing.

    An actor takes the next job when it is done with one. One that is lost, with its node or alone, is
    replaced, and its jobs are given to others; RuntimeError where ``LOST_WORKERS`` more were lost at one and
    the same job. Raises ValueError for a plan for cuda in a cluster without a GPU.
    """

    def __init__(self, worker: AtlasWorker, workers: int) -> None:
        import ray

        self._gpus = 1 if worker.plan.device == "cuda" else 0
        if self._gpus and ray.cluster_resources().get("GPU", 0) < 1:
            raise ValueError("device is 'cuda', but the Ray cluster has no GPU. Use device 'cpu'.")
        self._told = (worker.model_path, worker.plan, worker.partial, worker.latents)
        # Task -> its actor and job. The first task of an actor is to be ready, and only then does it get a
        # job: an actor that the cluster has no place for holds none back.
        self._tasks: dict[Any, tuple[Any, Any]] = {}
        self._ready: list[Any] = []
        self._dismissed: set[Any] = set()
        self._losses: Counter[Any] = Counter()
        for _ in range(workers):
            self._start()

    def run(self, method: str, jobs: Iterable[Any], *shared: Any) -> Iterator[Receipt]:
        import ray

        handles = [ray.put(value) for value in shared]
        waiting, returned = iter(jobs), deque[Any]()
        job = None
        while True:
            if job is None:
                job = returned.popleft() if returned else next(waiting, None)
            actor = self._least_busy()
            if job is not None and actor is not None:
                self._tasks[getattr(actor, method).remote(job, *handles)] = (actor, job)
                job = None
            elif job is None and not self._is_busy:
                return
            else:
                receipt, lost = self._next_answer()
                returned.extend(lost)
                if receipt is not None:
                    yield receipt

    def dismiss(self) -> None:
        """End all actors, whatever they are doing."""
        import ray

        for actor in {*self._ready, *(actor for actor, _ in self._tasks.values())}:
            ray.kill(actor)

    def leave_gpus(self, jobs: int) -> None:
        import ray

        if not self._gpus:
            return
        cpus = len(self._ready) + int(ray.available_resources().get("CPU", 0))
        self.dismiss()
        self._ready.clear()
        self._tasks.clear()
        self._gpus = 0
        for _ in range(min(jobs, cpus)):
            self._start()

    def _start(self) -> None:
        import ray

        options = {"num_cpus": 1, "num_gpus": self._gpus, "max_concurrency": AT_ONCE}
        actor = ray.remote(**options)(AtlasWorker).remote(*self._told)
        self._tasks[actor.ready.remote()] = (actor, None)

    def _least_busy(self) -> Any:
        """The actor that has the fewest jobs; None if all have ``AT_ONCE``."""
        busy = Counter(actor for actor, _ in self._tasks.values())
        actor = min(self._ready, key=lambda ready: busy[ready], default=None)
        return None if actor is None or busy[actor] >= AT_ONCE else actor

    @property
    def _is_busy(self) -> bool:
        return any(job is not None for _, job in self._tasks.values())

    def _next_answer(self) -> tuple[Receipt | None, list[Any]]:
        """Wait for a task to end: its receipt, or the job (none or one) that was lost with its actor."""
        import ray

        (done,), _ = ray.wait(list(self._tasks), num_returns=1)
        actor, job = self._tasks.pop(done)
        try:
            receipt = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            self._losses[job] += 1
            if self._losses[job] > LOST_WORKERS:
                raise RuntimeError(
                    f"{self._losses[job]} generation workers were lost one after the other. The last: {error}"
                ) from error
            self._replace(actor)
            return None, [] if job is None else [job]
        if job is None:
            self._ready.append(actor)
        # A worker that answers shows that others may be lost again for reasons of their own.
        del self._losses[job], self._losses[None]
        return receipt, []

    def _replace(self, actor: Any) -> None:
        """Start another one, unless that was done at the first of its jobs that was lost."""
        import ray

        if actor in self._dismissed:
            return
        self._dismissed.add(actor)
        if actor in self._ready:
            self._ready.remove(actor)
        ray.kill(actor)  # one that cannot be reached may live on
        self._start()
