"""A run: one directory that knows what it is training, on what, and how far it is."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from cfgen_scale.files import file_digest, read_json, write_json

from ..config import flatten

if TYPE_CHECKING:
    from cfgen_scale.training.config import TrainConfig

VERSION = 1
STAGES = ("autoencoder", "flow")


class RunError(ValueError):
    """A run directory belongs to something else, or is in use; the message says what to do."""


@dataclass(frozen=True)
class RunDirectory:
    """RUN/: run.json, metrics.jsonl, <stage>/checkpoints/, <stage>/result.safetensors, latents/,
    model/.

    shared  all workers see this directory; else each has one of its own
    """

    path: Path
    shared: bool = True

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def latents(self) -> Path:
        return self.path / "latents"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def checkpoints(self, stage: str) -> Path:
        return self.path / stage / "checkpoints"

    def result(self, stage: str) -> Path:
        """The weights a finished stage ended with."""
        return self.path / stage / "result.safetensors"

    def finished(self, stage: str) -> bool:
        return self.result(stage).exists()

    def trained(self, stages: Sequence[str]) -> bool:
        """Whether these stages left what they are for: their weights and, with the flow, the model."""
        return all(map(self.finished, stages)) and ("flow" not in stages or self.model.exists())

    @property
    def lock(self) -> Path:
        """Held by the trainer of the run; its content is a name of that one trainer."""
        return self.path / ".lock"

    def require_owner(self, owner: str) -> None:
        """Raise RunError unless the trainer of the run is (still) ``owner``."""
        # Opened anew each time, for which an NFS client asks its server.
        if self.lock.read_text() != owner:
            raise RunError(f"{self.path} has been taken up by another trainer: this one ends.")

    def document(self) -> dict[str, Any]:
        return read_json(self.path / "run.json")

    def config(self) -> "TrainConfig":
        """The resolved configuration the run was started with."""
        from pydantic import TypeAdapter

        from cfgen_scale.training.config import TrainConfig

        return TypeAdapter(TrainConfig).validate_json(json.dumps(self.document()["config"]))

    @property
    def digest_of_autoencoder(self) -> str:
        return file_digest(self.result("autoencoder"))


def open_run(path: Path, *, config: Mapping[str, Any], data: Path, data_digest: str) -> RunDirectory:
    """The run at ``path``: a new one, or the one that was begun with the same configuration and data.

    ``data_digest`` is the arrangement of a prepared atlas. The same cells in the same order at another place
    are the same data: the run then remembers that place.
    Raises RunError naming what differs, or if the directory holds something else.
    """
    run = RunDirectory(path)
    asked = json.loads(json.dumps({"config": config, "data_digest": data_digest}))
    if not (path / "run.json").exists():
        if path.exists() and any(path.iterdir()):
            raise RunError(f"{path} exists and is not a training run. Choose another --run directory.")
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "run.json", {"version": VERSION, "data": str(data.resolve()), **asked})
        return run
    found = run.document()
    if found["data_digest"] != data_digest:
        raise RunError(
            f"{path} was begun on other cells, or on these in another order ({found['data']}). Choose "
            f"another --run directory for {data}."
        )
    begun, now = flatten(found["config"]), flatten(asked["config"])
    differing = [key for key in now | begun if now.get(key) != begun.get(key)]
    if differing:
        key = differing[0]
        raise RunError(
            f"{path} was begun with {key}={begun.get(key)}, not {now.get(key)}. Give the same configuration "
            "to resume it, or choose another --run directory."
        )
    if found["data"] != str(data.resolve()):
        write_json(path / "run.json", {**found, "data": str(data.resolve())})
    return run


@contextmanager
def sole_trainer(run: RunDirectory) -> Iterator[None]:
    """Hold the run for this process; a second trainer of the same run is refused with RunError.

    A name for this trainer is written into the lock: workers that outlive their driver, which held it, see by
    that name that the run is another's. What a trainer that was killed left under temporary names is removed.
    """
    import fcntl

    # Not to be emptied by one that does not get it.
    with open(run.lock, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(
                f"{run.path} is being trained by another process. Wait for it, or stop it."
            ) from None
        lock.truncate(0)
        lock.write(uuid4().hex)
        lock.flush()
        _tidy(run)
        try:
            yield
        finally:
            lock.truncate(0)


def _tidy(run: RunDirectory) -> None:
    """Remove what a killed trainer left under temporary names; a directory that was about to be replaced goes
    back to its place, if the new one had not come to it."""
    for left in (*run.path.glob(".*.replaced"), *run.path.glob("*/checkpoints/.*.replaced")):
        place = left.with_name(left.name[1:].rsplit(".", 2)[0])
        if not place.exists():
            left.rename(place)
        else:
            shutil.rmtree(left)
    for left in (p for where in ("", "*/", "*/checkpoints/") for p in run.path.glob(f"{where}.*.aside")):
        # A worker that outlives its driver may be writing there still; what it leaves goes the next time.
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
