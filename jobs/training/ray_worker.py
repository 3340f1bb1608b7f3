"""What a Ray Train worker adds to training: its run directory, and checkpoints handed over to Ray."""

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cfgen_scale.files import write_json

from ..device import Device
from .books import Books, BooksOnDisk
from .parcel import pack, unpack
from .run_directory import RunDirectory


@dataclass(frozen=True)
class RayJob:
    """What the driver tells each worker: picklable, the same for all.

    run       the run directory, on a file system that all workers share; None where they share none: each
              then works in a directory of its own, and Ray's storage carries what has to last
    owner     name of the trainer that the driver is, in the lock of the run directory
    document  content of run.json
    books     actor on the driver's machine that keeps the metrics, where ``run`` is None
    cache     directory of each machine's own disk for the cells of slow stores
    device    that all workers compute on
    """

    stages: tuple[str, ...]
    run: str | None
    device: Device
    owner: str = ""
    document: Mapping[str, Any] = field(default_factory=dict)
    books: Any = None
    cache: str | None = None


class BooksOfOwner(BooksOnDisk):
    """Books in a shared run directory, closed to workers whose driver has died and has been replaced."""

    def __init__(self, run: RunDirectory, owner: str) -> None:
        super().__init__(run.metrics)
        self.run, self.owner = run, owner

    def begin(self, stage: str, cells_seen: int) -> None:
        self.run.require_owner(self.owner)
        super().begin(stage, cells_seen)

    def add(self, row: Mapping[str, Any]) -> None:
        self.run.require_owner(self.owner)
        super().add(row)


class BooksElsewhere:
    """Books kept by an actor on the driver's machine."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def begin(self, stage: str, cells_seen: int) -> None:
        import ray

        ray.get(self.actor.begin.remote(stage, cells_seen))

    def add(self, row: Mapping[str, Any]) -> None:
        import ray

        ray.get(self.actor.add.remote(row))


def ray_worker(told: Mapping[str, RayJob]) -> None:
    """Train on one Ray Train worker, as ``train_worker`` does anywhere; Ray is told of every checkpoint."""
    import ray.train

    from .worker import train_worker

    job = told["job"]
    context = ray.train.get_context()
    rank = context.get_world_rank()
    run, books, guard = _own_run(job, rank) if job.run is None else _shared_run(job.run, job.owner)
    hand_over = HandOver(run, rank, guard)
    train_worker(
        run,
        job.stages,
        workers=context.get_world_size(),
        on_gpu=job.device == "cuda",
        cache=job.cache,
        books=books,
        saved=hand_over.checkpoint,
        guard=guard,
    )
    hand_over.everything()


def _shared_run(path: str, owner: str) -> tuple[RunDirectory, Books, Callable[[], None]]:
    """The run directory that all workers see, in which nothing is changed when it has another owner."""
    run = RunDirectory(Path(path))
    return run, BooksOfOwner(run, owner), partial(run.require_owner, owner)


def _own_run(job: RayJob, rank: int) -> tuple[RunDirectory, Books, Callable[[], None]]:
    """A fresh directory of this worker with what Ray's newest checkpoint holds of the run."""
    import ray.train

    # In the working directory of the worker, which goes with Ray's session.
    path = Path.cwd() / f"run-of-worker-{rank}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    run = RunDirectory(path, shared=False)
    write_json(path / "run.json", dict(job.document))
    if (newest := ray.train.get_checkpoint()) is not None:
        with newest.as_directory() as parcel:
            unpack(Path(parcel), run)
    return run, BooksElsewhere(job.books), lambda: None


class HandOver:
    """Gives checkpoints to Ray Train: as parcels into its storage, in the background.

    Every worker reports every checkpoint; the first one gives the files. A new checkpoint waits until the one
    before is in the storage, so that slow storage slows training down rather than filling the disk; the other
    workers wait for the first one meanwhile, for as long as `GROUP_PATIENCE` lets them.
    """

    def __init__(self, run: RunDirectory, rank: int, guard: Callable[[], None]) -> None:
        self.run, self.rank, self.guard = run, rank, guard
        self._stored: Future[None] | None = None

    def checkpoint(self, place: dict[str, Any], written: Future[Path] | None) -> None:
        """Report a checkpoint that is being written; it is stored when it is complete."""
        if self._stored is not None:
            self._stored.result()
        parcel = self._parcel(f"{place['stage']}-{place['cells_seen']:015d}")
        packed = None if written is None else after(written, lambda path: pack(self.run, parcel, path))
        self._report(place, packed)

    def everything(self) -> None:
        """Report the finished run: results and model."""
        self.guard()
        packed: Future[Path] | None = None
        if self.rank == 0:
            packed = Future()
            packed.set_result(pack(self.run, self._parcel("finished")))
        self._report({"stage": "finished"}, packed)

    def _parcel(self, name: str) -> Path:
        path = self.run.path / "ray" / "parcels" / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def _report(self, place: dict[str, Any], packed: Future[Path] | None) -> None:
        import ray.train

        if packed is None:
            ray.train.report(place, checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC)
            return
        stored: Future[None] = Future()

        def store(_: Any, name: str) -> Any:
            try:
                kept = put_in_storage(packed.result(), name)
            except BaseException as error:
                stored.set_exception(error)
                raise
            stored.set_result(None)
            return kept

        self._stored = stored
        ray.train.report(
            place,
            # Ray asks for a checkpoint at once; ``store`` gives it the one that is complete later.
            checkpoint=ray.train.Checkpoint(str(self.run.path)),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=store,
            delete_local_checkpoint_after_upload=False,
        )


def put_in_storage(parcel: Path, name: str) -> Any:
    """Move a parcel into Ray Train's storage, local or remote; returns it as Ray's Checkpoint."""
    import pyarrow.fs
    import ray.train

    storage = ray.train.get_context().get_storage()
    files, target = storage.storage_filesystem, f"{storage.experiment_fs_path}/{name}"
    move(parcel, files, target, local=isinstance(files, pyarrow.fs.LocalFileSystem))
    return ray.train.Checkpoint(target, files)


def move(parcel: Path, files: Any, target: str, *, local: bool) -> None:
    """Move a directory to ``target`` in a pyarrow file system: by renaming it, where that is possible."""
    import pyarrow.fs

    if local:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(parcel, target)
        return
    files.create_dir(target)
    pyarrow.fs.copy_files(str(parcel), target, destination_filesystem=files)
    shutil.rmtree(parcel)


def after(written: Future[Path], act: Callable[[Path], Path]) -> Future[Path]:
    """What ``act`` makes of a result, in the thread and at the moment that brings it."""
    made: Future[Path] = Future()

    def done(finished: Future[Path]) -> None:
        try:
            made.set_result(act(finished.result()))
        except BaseException as error:
            made.set_exception(error)

    written.add_done_callback(done)
    return made
