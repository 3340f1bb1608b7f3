"""How far a training run is, read from its directory alone."""

import fcntl
from collections.abc import Iterator
from pathlib import Path

from .progress import MetricsReader, Row, latest_by_stage, losses, progress_line
from .run_directory import STAGES, RunDirectory, RunError


def status_of(path: Path) -> Iterator[str]:
    """Lines for a reader: data, each stage, model, the next command. Raises RunError if there is no run."""
    run = RunDirectory(path)
    if not (path / "run.json").is_file():
        raise RunError(f"{path} is not a training run: it has no run.json. Begin one with cfgen-scale train.")
    data = run.document()["data"]
    latest = latest_by_stage(MetricsReader(run.metrics).new_rows())
    yield f"run          {path} on {data}, {_state(run, begun=set(latest))}"
    for stage in STAGES:
        yield f"{stage:<12} {_progress(latest.get(stage), finished=run.finished(stage))}"
    if run.model.is_dir():
        yield f"model        {run.model}"
        yield f"next         cfgen-scale generate --model {path} --cells 10000 --out atlas.zarr"
    else:
        yield f"next         cfgen-scale train all --data {data} --run {path}"


def _progress(row: Row | None, *, finished: bool) -> str:
    if row is None:
        return "finished" if finished else "not begun"
    if finished:
        return f"finished after {row['cells_seen']:,} of at most {row['cells_total']:,} cells, {losses(row)}"
    return progress_line(row).partition(": ")[2].strip()


def _state(run: RunDirectory, *, begun: set[str]) -> str:
    if _held(run.lock):
        return "in training now"
    if run.model.is_dir():
        return "complete"
    if run.finished("autoencoder") and "flow" not in begun:
        return "the autoencoder is trained, the flow is next"
    return "interrupted: the same train command resumes it"


def _held(lock: Path) -> bool:
    """Whether a process holds the lock that a trainer of the run takes."""
    if not lock.exists():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
