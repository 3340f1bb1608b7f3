"""A chunk is drawn while the one before is written; what is lost is done again; GPUs are given back."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cfgen_scale.model import CFGen
from jobs.generation.chunk_workers import AT_ONCE, AtlasWorker
from jobs.generation.crew import crew_of
from jobs.generation.plan import Plan, make_plan
from jobs.generation.request import Group, Request
from jobs.generation.shaping import machine_here
from loaders.atlases.writer import PartialAtlas
from tests.tiny_model import SCHEMA

CHUNKS, CELLS = 6, 10
PATIENCE = 20.0


def plan_of(model_path: Path, device: str = "cpu") -> Plan:
    model = CFGen.load(model_path)
    request = Request((Group(CHUNKS * CELLS),))
    options = {"model_digest": model.digest, "ode": model.config.ode, "chunk_cells": CELLS}
    return make_plan(request, SCHEMA, device=device, **options)  # type: ignore[arg-type]


@pytest.fixture
def worker(model_path: Path, tmp_path: Path) -> Iterator[AtlasWorker]:
    partial = PartialAtlas.beside(tmp_path / "atlas.zarr")
    with partial.held():
        partial.begin({"machine": machine_here("cpu")})
        yield AtlasWorker(model_path, plan_of(model_path), partial)


def test_the_next_chunk_is_drawn_before_the_last_is_written(
    worker: AtlasWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No chunk is written before its successor is drawn; still a receipt says that the file is there."""
    drawn = [threading.Event() for _ in range(CHUNKS + 1)]
    drawn[CHUNKS].set()
    make, write, in_memory, most = AtlasWorker._cells, PartialAtlas.write_chunk, [], []

    def noted(self: AtlasWorker, chunk: Any) -> Any:
        in_memory.append(chunk.index)
        most.append(len(in_memory))
        cells = make(self, chunk)
        drawn[chunk.index].set()
        return cells

    def late(self: PartialAtlas, index: int, *rest: Any, **options: Any) -> None:
        assert drawn[index + 1].wait(PATIENCE), "the next chunk waits for this one to be written"
        write(self, index, *rest, **options)
        in_memory.remove(index)

    monkeypatch.setattr(AtlasWorker, "_cells", noted)
    monkeypatch.setattr(PartialAtlas, "write_chunk", late)
    with crew_of(worker, workers=0) as crew:
        for number, _ in enumerate(crew.write(worker.plan.chunks())):
            assert worker.partial.has_chunk(number)
    assert worker.partial.chunks_there().tolist() == list(range(CHUNKS))
    assert max(most) == AT_ONCE


def test_an_error_while_a_chunk_is_written_is_raised(
    worker: AtlasWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = PartialAtlas.write_chunk

    def full(self: PartialAtlas, index: int, *rest: Any, **options: Any) -> None:
        if index == 2:
            raise OSError(28, "No space left on device")
        write(self, index, *rest, **options)

    monkeypatch.setattr(PartialAtlas, "write_chunk", full)
    done = []
    with crew_of(worker, workers=0) as crew, pytest.raises(OSError, match="No space left"):
        done.extend(crew.write(worker.plan.chunks()))
    assert not worker.partial.has_chunk(2)
    assert worker.partial.chunks_there().tolist() in ([0, 1], [0, 1, 3])


@pytest.mark.ray
def test_one_worker_takes_the_place_of_one_that_had_two_chunks(
    worker: AtlasWorker, ray_cluster: None
) -> None:
    with crew_of(worker, workers=1) as crew:
        receipts = crew.write(worker.plan.chunks())
        first = next(receipts)
        os.kill(first.pid, signal.SIGKILL)
        rest = list(receipts)
        assert len(crew._ready) == 1  # type: ignore[attr-defined]
    assert {receipt.pid for receipt in rest} - {first.pid}
    assert worker.partial.chunks_there().tolist() == list(range(CHUNKS))


WITH_A_GPU_ON_PAPER = """
import sys, ray
from pathlib import Path
from jobs.generation.chunk_workers import AtlasWorker
from jobs.generation.crew import crew_of
from loaders.atlases.writer import PartialAtlas
from tests.jobs.generation.test_chunk_workers import plan_of

model, out = map(Path, sys.argv[1:])
ray.init(address="local", num_cpus=3, num_gpus=1, include_dashboard=False, log_to_driver=False)
with crew_of(AtlasWorker(model, plan_of(model, "cuda"), PartialAtlas.beside(out)), workers=1) as crew:
    ray.get(list(crew._tasks))
    held = ray.available_resources().get("GPU", 0), ray.available_resources()["CPU"]
    assert held == (0, 2), held
    crew.leave_gpus(7)
    assert len(crew._tasks) == 2  # the CPUs that were free: nobody has seen that the first actor is ready
    ray.get(list(crew._tasks))
    assert ray.available_resources().get("GPU", 0) == 1
"""


@pytest.mark.ray
@pytest.mark.slow
def test_assembly_holds_no_gpu_and_has_the_cpus(model_path: Path, tmp_path: Path) -> None:
    """Ray counts GPUs as it is told: a cluster of its own, with one that is not there."""
    command = [sys.executable, "-c", WITH_A_GPU_ON_PAPER, str(model_path), str(tmp_path / "atlas.zarr")]
    ran = subprocess.run(
        command, env={**os.environ, "RAY_AUTH_MODE": "disabled"}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
