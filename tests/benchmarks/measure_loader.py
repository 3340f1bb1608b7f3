"""One loader measured in this process, so that its memory is its own; prints one JSON document.

    python -m tests.benchmarks.measure_loader --root DIR --loader annbatch --cores 2 --setting 0

Compiled code is loaded by a first batch, which is also the one that is checked. Every epoch opens the store
anew. Cold: the pages of its files are dropped from the page cache first; what was then read from the disk is
reported, so that cold can be told from lukewarm.
"""

import argparse
import gc
import json
import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.loader_peers import Batches, Epoch, Loader, loaders, require_same_counts
from tests.benchmarks.loader_stores import files
from tests.benchmarks.memory import PeakMemory

LARGE, SMALL = 4_096, 256  # cells of a batch
LEAST_SECONDS, MOST_PASSES = 1.0, 5  # of a warm measurement: short epochs are repeated


def measure(loader: Loader, epoch: Epoch, setting: int, *, cells: int, seconds: float) -> dict[str, Any]:
    """One epoch, or whole windows of it for ``seconds``: cells/s, seconds to the first batch, peak memory."""
    gc.collect()
    read_before = _bytes_read()
    with PeakMemory() as memory:
        began = time.perf_counter()
        window = loader.window(loader.settings[setting])
        with closing(loader.open(epoch, loader.settings[setting])) as batches:
            arrivals = _consume(batches, window, until=began + seconds)
    ended, seen = arrivals[-1]
    if seen != cells and ended < began + seconds:
        raise ValueError(f"{loader.name} gave {seen:,} cells of {cells:,} in an epoch.")
    return {
        "cells": seen,
        "cells_per_second": seen / (ended - began),
        "steady_cells_per_second": _steady(arrivals, window),
        "first_batch_seconds": arrivals[0][0] - began,
        "bytes_read": _bytes_read() - read_before,
        **memory.peaks(),
    }


def _consume(batches: Batches, window: int, *, until: float) -> list[tuple[float, int]]:
    """When each batch came, and how many cells had then come.

    Stops at ``until``, but only behind a whole window: what was read for batches never asked for would count.
    """
    arrivals: list[tuple[float, int]] = []
    seen = 0
    for batch in batches:
        windows = seen // window
        seen += len(batch.places)
        arrivals.append((time.perf_counter(), seen))
        if arrivals[-1][0] > until and seen // window > windows:
            break
    return arrivals


def _steady(arrivals: list[tuple[float, int]], window: int) -> float | None:
    """Cells a second behind the first window; None if there is no second."""
    first_window = next((a for a in arrivals if a[1] >= window), arrivals[-1])
    seconds, cells = (last - first for last, first in zip(arrivals[-1], first_window, strict=True))
    return cells / seconds if cells else None


def warm(loader: Loader, epoch: Epoch, setting: int, *, cells: int, seconds: float) -> dict[str, Any]:
    """The pass of median rate of several, which together take a second at least."""
    _read_all(files(loader.store, epoch.root))
    passes: list[dict[str, Any]] = []
    began = time.perf_counter()
    while not passes or (time.perf_counter() - began < LEAST_SECONDS and len(passes) < MOST_PASSES):
        passes.append(measure(loader, epoch, setting, cells=cells, seconds=seconds))
    return sorted(passes, key=lambda p: p["cells_per_second"])[len(passes) // 2]


def cold(loader: Loader, epoch: Epoch, setting: int, *, cells: int, seconds: float) -> dict[str, Any]:
    gc.collect()  # a page that is mapped is not dropped
    _forget(files(loader.store, epoch.root))
    return measure(loader, epoch, setting, cells=cells, seconds=seconds)


def check(loader: Loader, epoch: Epoch, setting: int) -> None:
    """Compare a first batch with anndata's own read of the same cells."""
    with closing(loader.open(epoch, loader.settings[setting])) as batches:
        batch = next(batches)
        rows = loader.atlas_rows(epoch.root, epoch.store)[np.asarray(batch.places)]
        require_same_counts(batch, rows, epoch.root)


def _bytes_read() -> int:
    """What this process has caused to be fetched from disks."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("read_bytes")))


def _forget(paths: list[Path]) -> None:
    os.sync()
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_all(paths: list[Path]) -> None:
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--loader", required=True)
    parser.add_argument("--codec", action="append", default=[])
    parser.add_argument("--cores", type=int, required=True)
    parser.add_argument("--setting", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0, help="most of one epoch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="only batches of 4,096 from the page cache")
    options = parser.parse_args()
    loader = loaders(tuple(options.codec))[options.loader]
    cells = json.loads((options.root / f"{loader.store}.json").read_text())["cells"]
    epochs = {n: Epoch(options.root, loader.store, n, options.cores, options.seed) for n in (LARGE, SMALL)}
    check(loader, epochs[SMALL], options.setting)
    how = {"setting": options.setting, "cells": cells, "seconds": options.seconds}
    found = {}
    if not options.quick:
        found["cold"] = cold(loader, epochs[LARGE], **how)
    found["warm"] = warm(loader, epochs[LARGE], **how)
    if not options.quick:
        found["small"] = warm(loader, epochs[SMALL], **how)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
