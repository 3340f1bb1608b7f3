"""What this machine reaches: matrix products, memory, reading, drawing, compressing, writing."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix, random_array

from cfgen_scale.costs import FLOAT, Device, Host
from cfgen_scale.counts import SparseCounts
from cfgen_scale.counts_layer import CountsLinear
from cfgen_scale.drawing import Distribution, draw_counts
from cfgen_scale.likelihoods import negative_binomial_log_prob
from loaders.preparation.prepared import Prepared
from loaders.streaming.stream import CellStream

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
    """This machine's CPU, each kernel by itself: products of the decoder's last layer forwards and backwards,
    streaming through memory, the likelihood and the first layer of simulated counts."""
    source, target = torch.rand(32 * 2**20), torch.zeros(32 * 2**20)
    memory_rate = 2 * FLOAT * len(source) / best_seconds(lambda: target.copy_(source))
    one = torch.ones(8)
    counts = SparseCounts.from_csr(simulated(batch, genes))
    return Device(
        "cpu",
        flops=_products(batch, hidden, genes),
        memory_rate=memory_rate,
        memory=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        link=None,
        # One machine: an all-reduce between its workers goes through memory.
        network=memory_rate / 4,
        launch=best_seconds(lambda: [one.add_(1) for _ in range(1000)]) / 1000,
        source=f"measured now on this machine, {torch.get_num_threads()} threads, float32",
        likelihood=batch * genes / _likelihood(counts),
        rows=2 * len(counts.values) * hidden * FLOAT / _first_layer(counts, hidden),
    )


def _products(batch: int, hidden: int, genes: int) -> float:
    """Operations a second."""
    a, weight, slope = torch.rand(batch, hidden), torch.rand(genes, hidden), torch.rand(batch, genes)
    forwards = best_seconds(lambda: a @ weight.T)
    backwards = best_seconds(lambda: slope @ weight) + best_seconds(lambda: slope.T @ a)
    return 6 * batch * hidden * genes / (forwards + backwards)


def _likelihood(counts: SparseCounts) -> float:
    """Seconds, forwards and backwards."""
    logits = torch.randn(counts.shape, requires_grad=True)
    log_theta, log_l = torch.zeros(counts.shape[1], requires_grad=True), counts.totals().log()
    return best_seconds(lambda: negative_binomial_log_prob(counts, logits, log_l, log_theta).sum().backward())


def _first_layer(counts: SparseCounts, hidden: int) -> float:
    """Seconds, forwards and backwards."""
    layer = CountsLinear(counts.shape[1], hidden)
    return best_seconds(lambda: layer(counts).sum().backward())


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
