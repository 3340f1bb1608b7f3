"""What this machine reaches: matrix products, memory, reading, drawing, compressing, writing."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix, random_array

from cfgen_scale.costs import REACHED_ON_PROCESSOR, Device, Host
from cfgen_scale.drawing import Distribution, draw_counts
from loaders.prepared import Prepared
from loaders.stream import CellStream

DENSITY = 0.05
FILE_BYTES = 256 * 2**20
READ_BATCH = 512


def best_seconds(act: Callable[[], object], repeats: int = 15) -> float:
    """Shortest of a few times: what the machine can do, undisturbed; the first call warms up."""
    act()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        act()
        times.append(time.perf_counter() - began)
    return min(times)


def measured_device(batch: int, hidden: int, genes: int) -> Device:
    """This machine's CPU: of products of the shape of the decoder's last layer, and of streaming through
    memory, the share that a step reaches."""
    a, b = torch.rand(batch, hidden), torch.rand(hidden, genes)
    product = torch.empty(batch, genes)
    flops = 2 * batch * hidden * genes / best_seconds(lambda: torch.mm(a, b, out=product))
    source, target = torch.rand(32 * 2**20), torch.zeros(32 * 2**20)
    memory_rate = 2 * 4 * len(source) / best_seconds(lambda: target.copy_(source))
    one = torch.ones(8)
    launch = best_seconds(lambda: [one.add_(1) for _ in range(1000)]) / 1000
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    said = f"measured now on this machine, {torch.get_num_threads()} threads, float32"
    # One machine: an all-reduce between its workers goes through memory.
    network = memory_rate / 4
    reached = REACHED_ON_PROCESSOR
    return Device("cpu", reached * flops, reached * memory_rate, memory, None, network, launch, said)


def measured_host(prepared: Prepared, genes: int, folder: Path) -> Host:
    """Reading, drawing, compressing and writing on this machine."""
    return Host(
        nonzeros=_reading(prepared), draws=_drawing(genes), compress=_compressing(), disk=_writing(folder)
    )


def _reading(prepared: Prepared) -> float:
    n, nonzeros, began = 0, 0, 0.0
    for batch in CellStream(prepared, split="train", batch_cells=READ_BATCH, seed=0):
        # The first batch has waited for the threads to start.
        began = began or time.perf_counter()
        nonzeros += batch.counts[0].nnz if n else 0
        n += len(batch.rows)
        if n >= 16_384:
            break
    return nonzeros / (time.perf_counter() - began)


def _drawing(genes: int) -> float:
    draws = np.random.default_rng(0)
    means = np.exp(draws.normal(-3.5, 1.0, (128, genes))).astype(np.float32)  # some 5 % of the counts above 0
    keys = draws.integers(2**64, size=128, dtype=np.uint64)
    distribution = Distribution("negative_binomial", np.ones((1, genes)))
    return 128 * genes / best_seconds(lambda: draw_counts(means, keys, distribution), 5)


def _compressing() -> float:
    from numcodecs import Blosc

    counts = simulated(500, 2000)
    data = np.concatenate([np.diff(counts.indices).astype(np.uint16), counts.data.astype(np.uint16)])
    codec = Blosc(cname="zstd", clevel=1, shuffle=Blosc.SHUFFLE)
    return data.nbytes / best_seconds(lambda: codec.encode(data))


def _writing(folder: Path) -> float:
    data = np.random.default_rng(0).bytes(FILE_BYTES)

    def write() -> None:
        with open(folder / "written", "wb") as file:
            file.write(data)
            os.fsync(file.fileno())

    seconds = best_seconds(write, 2)
    (folder / "written").unlink()
    return FILE_BYTES / seconds


def simulated(cells: int, genes: int) -> csr_matrix:
    """Counts that are 1 or 2 at 5 % of the places."""
    counts = random_array((cells, genes), density=DENSITY, format="csr", rng=np.random.default_rng(0))
    counts.data = np.ceil(2 * counts.data**2)
    return csr_matrix(counts.astype(np.float32))
