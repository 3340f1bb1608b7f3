"""A crew of Ray actors."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .chunk_workers import AT_ONCE, AtlasWorker, Receipt, ShardTask, ShardWriter
from .plan import Chunk
from .progress import say

LOST_WORKERS = 8
PATIENCE = 30.0  # seconds until the user is told that workers are missing


class RayCrew:
    """``workers`` actors, each with one CPU (and one GPU if the plan is for cuda), and what each is doing.

    An actor takes the next job when it is done with one. One that is lost, with its node or alone, is
    replaced, and its jobs are given to others; RuntimeError where ``LOST_WORKERS`` more were lost at one and
    the same job. Raises ValueError for a plan for cuda in a cluster without a GPU. With ``progress`` the user
    is told where the cluster has no place for actors.
    """

    def __init__(self, worker: AtlasWorker, workers: int, progress: bool = False) -> None:
        import ray

        self._gpus = 1 if worker.plan.device == "cuda" else 0
        if self._gpus and ray.cluster_resources().get("GPU", 0) < 1:
            raise ValueError("device is 'cuda', but the Ray cluster has no GPU. Use device 'cpu'.")
        self._told = (worker.model_path, worker.plan, worker.partial, worker.latents)
        self.decodes = worker.decodes
        # Task -> its actor and job. The first task of an actor is to be ready, and only then does it get a
        # job: an actor that the cluster has no place for holds none back.
        self._tasks: dict[Any, tuple[Any, Any]] = {}
        self._ready: list[Any] = []
        self._dismissed: set[Any] = set()
        self._losses: Counter[Any] = Counter()
        self._workers, self._progress = workers, progress
        self._hired, self._has_told = time.monotonic(), False
        for _ in range(workers):
            self._start()

    def machine(self) -> dict[str, str]:
        (found,) = self._run(lambda actor, _: actor.machine.remote(), ["machine"])
        return found

    def write(self, chunks: Iterable[Chunk]) -> Iterator[Receipt]:
        return self._run(lambda actor, chunk: actor.write.remote(chunk), chunks)

    def assemble[Task: ShardTask](
        self, tasks: Iterable[Task], writer: ShardWriter[Task]
    ) -> Iterator[Receipt]:
        import ray

        shared = ray.put(writer)
        return self._run(lambda actor, task: actor.assemble.remote(task, shared), tasks)

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
        self._workers = min(jobs, cpus)
        self._hired, self._has_told = time.monotonic(), False
        for _ in range(self._workers):
            self._start()

    def _run(self, call: Callable[[Any, Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
        """``call`` some actor with each job; the answers."""
        waiting, returned = iter(jobs), deque[Any]()
        job = None
        while True:
            if job is None:
                job = returned.popleft() if returned else next(waiting, None)
            actor = self._least_busy()
            if job is not None and actor is not None:
                self._tasks[call(actor, job)] = (actor, job)
                job = None
            elif job is None and not self._is_busy:
                return
            else:
                answer, lost = self._next_answer()
                returned.extend(lost)
                if answer is not None:
                    yield answer

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

    def _next_answer(self) -> tuple[Any, list[Any]]:
        """Wait for a task to end: its answer, or the job (none or one) that was lost with its actor."""
        import ray

        actor, job = self._tasks[done := self._next_done()]
        del self._tasks[done]
        try:
            answer = ray.get(done)
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
        return answer, []

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

    def _next_done(self) -> Any:
        """The task that ends next; the user is told of workers that keep it waiting."""
        import ray

        while True:
            done, _ = ray.wait(list(self._tasks), num_returns=1, timeout=PATIENCE)
            if time.monotonic() > self._hired + PATIENCE:
                self._tell_of_the_missing()
            if done:
                return done[0]

    def _tell_of_the_missing(self) -> None:
        """Again and again while there is no worker at all; once where there are fewer than asked for."""
        import ray

        missing = sum(job is None for _, job in self._tasks.values())
        if not missing or (self._has_told and missing < self._workers):
            return
        self._has_told = True
        free, gpu = ray.available_resources(), " and a GPU" if self._gpus else ""
        say(
            f"{self._workers - missing} of {self._workers} workers are at work: they need a CPU{gpu} each, "
            f"and the Ray cluster has {free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs free. The "
            "others begin when there is room.",
            self._progress,
        )
