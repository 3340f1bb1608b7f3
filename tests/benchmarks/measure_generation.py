"""One generation measured in this process and those it starts; prints one JSON document.

    python -m tests.benchmarks.measure_generation ours --model DIR --out ATLAS --cells 20000 --workers 2
    python -m tests.benchmarks.measure_generation reference --model DIR --out ATLAS --cells 20000 --workers 2

Imports, compilation and the start of the Ray cluster come before the clock, as does the reference's model.
Ours is `generate_atlas`, the start of its actors included; ``seconds_after_start`` begins with the first
chunk that is there. The reference computes with as many threads as ours has workers.
"""

import argparse
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
import torch
import zarr

from cfgen_scale.model import CFGen
from jobs.cluster import cluster
from jobs.generation.generate import generate_atlas
from jobs.generation.plan import CHUNK_CELLS
from jobs.generation.request import Group, Request
from loaders.atlases.writer import PartialAtlas
from tests.benchmarks import reference_generation
from tests.benchmarks.measure_training import machine
from tests.benchmarks.memory import FORGET_PEAK

PAUSE_SECONDS = 0.1
Measured = dict[str, Any]


class Watcher:
    """Watches a generation from outside: when its chunks are there, and the most memory its processes hold,
    in bytes, of this process and all below it, Ray's own too.

    tree     anonymous memory (RssAnon) of all at once, looked at ten times a second
    largest  of any one of them
    peaks    the kernel's own high-water mark (VmHWM) of each process since the watch began; it misses nothing
             between two looks, and counts mapped files and memory that is shared
    """

    def __init__(self, out: Path, n_chunks: int) -> None:
        self._partial, self._n_chunks = PartialAtlas.beside(out), n_chunks
        self.first_chunk = self.last_chunk = 0.0
        self.tree = self.largest = 0
        self.peaks: dict[tuple[int, float], int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watcher":
        for process in processes():
            with suppress(OSError):  # ended, or another user's
                Path(f"/proc/{process.pid}/clear_refs").write_text(FORGET_PEAK)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(PAUSE_SECONDS):
            there = processes()
            for process in there:
                with suppress(psutil.NoSuchProcess):
                    identity = process.pid, process.create_time()
                    self.peaks[identity] = max(self.peaks.get(identity, 0), memory(process, "VmHWM"))
            held = [memory(process, "RssAnon") for process in there]
            self.tree, self.largest = max(self.tree, sum(held)), max(self.largest, *held)
            if not self.last_chunk:
                with suppress(FileNotFoundError):  # not begun, or finished while we look
                    self._look(len(self._partial.chunks_there()))

    def _look(self, chunks: int) -> None:
        now = time.perf_counter()
        self.first_chunk = self.first_chunk or (now if chunks else 0.0)
        self.last_chunk = now if chunks == self._n_chunks else 0.0


def processes() -> list[psutil.Process]:
    """This one and all below it."""
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def memory(process: psutil.Process, name: str) -> int:
    """RssAnon or VmHWM of a process in bytes; 0 if it has ended."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    return 0


def timed(work: Callable[[], Any], out: Path, cells: int, chunk_cells: int) -> Measured:
    """Seconds of the whole and of its phases, and memory."""
    with Watcher(out, -(-cells // chunk_cells)) as watcher:
        began, busy = time.perf_counter(), time.process_time()
        work()
        ended, busy = time.perf_counter(), time.process_time() - busy
    measured = {
        "cells": cells,
        "chunk_cells": chunk_cells,
        "seconds": ended - began,
        "busy_seconds_here": busy,
    }
    measured |= {"tree_anonymous": watcher.tree, "largest_anonymous": watcher.largest}
    peaks = watcher.peaks.values()
    measured |= {"tree_peak_rss": sum(peaks), "largest_peak_rss": max(peaks, default=0)}
    if watcher.first_chunk and watcher.last_chunk:
        measured["seconds_to_first_chunk"] = watcher.first_chunk - began
        measured["seconds_after_start"] = ended - watcher.first_chunk
        measured["seconds_behind_chunks"] = ended - watcher.last_chunk
    return measured


def describe(out: Path) -> Measured:
    """What was written: bytes, files, non-zeros."""
    files = [path for path in out.rglob("*") if path.is_file()]
    shape = zarr.open_group(out, mode="r")["X"].attrs["shape"]
    size = sum(path.stat().st_size for path in files)
    return {"bytes_per_cell": size / shape[0], "files": len(files), "genes": shape[1]}


def ours(options: argparse.Namespace) -> Measured:
    """A whole atlas; before it a chunk's, so that all is imported and compiled."""
    ray = options.workers > 1
    with cluster(options.workers) if ray else nullcontext():
        warm = options.out.with_name(f"{options.out.name}.warm.zarr")
        shared = {"chunk_cells": options.chunk_cells, "device": options.device, "progress": False}
        generate_atlas(options.model, warm, Request((Group(options.chunk_cells),)), **shared)
        shutil.rmtree(warm)
        request = Request((Group(options.cells),))

        def work() -> None:
            generate_atlas(options.model, options.out, request, workers=options.workers, **shared)

        return timed(work, options.out, options.cells, options.chunk_cells) | describe(options.out)


def reference(options: argparse.Namespace) -> Measured:
    """The plain loop; before it one batch."""
    torch.set_num_threads(options.workers)
    model = CFGen.load(options.model)
    warm = options.out.with_name(f"{options.out.name}.warm.zarr")
    reference_generation.generate(model, reference_generation.BATCH, warm)
    shutil.rmtree(warm)
    measured = timed(
        lambda: reference_generation.generate(model, options.cells, options.out),
        options.out,
        options.cells,
        options.chunk_cells,
    )
    return measured | describe(options.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("contender", choices=("ours", "reference"))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="removed afterwards")
    parser.add_argument("--cells", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--chunk-cells", type=int)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    options.chunk_cells = options.chunk_cells or CHUNK_CELLS[options.device]
    shutil.rmtree(options.out, ignore_errors=True)
    shutil.rmtree(PartialAtlas.beside(options.out).path, ignore_errors=True)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    measured = (ours if options.contender == "ours" else reference)(options)
    shutil.rmtree(options.out)
    print(json.dumps({**measured, "machine": machine()}))


if __name__ == "__main__":
    main()
