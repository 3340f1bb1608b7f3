"""One way of training measured in this process, so that its memory is its own; prints one JSON document.

    python -m tests.benchmarks.measure_training ours-autoencoder --data PREPARED --batch 256 --seconds 10

Ours is what a run does: the model and accelerator of `jobs.training.worker`, the cells of `feed`, the one
loop; without validation, and with one checkpoint at the end, which is not in the rate. The reference's
loops (reference_recipe.py) hold up to --dense-cells cells in RAM. The first steps of each are not counted.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from cfgen_scale.training import AutoencoderStage, Cells, FlowStage, TrainConfig, run_stage
from jobs.config import load_config
from jobs.memory import reuse_memory
from jobs.training.encode import AtlasLatents, encode_counts
from jobs.training.feed import autoencoder_cells, flow_cells
from jobs.training.worker import make_accelerator, new_model
from loaders.preparation.prepared import Prepared
from loaders.streaming.stream import in_order
from tests.benchmarks import reference_recipe
from tests.benchmarks.memory import PeakMemory

CONTENDERS = (
    "matrix-products",
    "ours-autoencoder",
    "ours-flow",
    "reference-autoencoder",
    "reference-autoencoder-fused",
    "reference-flow",
    "reference-flow-cached",
)
BUDGET = 1_000_000_000
WARM_STEPS = 5
SQUARE = 2_048
Measured = dict[str, Any]


def reference(step: reference_recipe.Step, seconds: float) -> Measured:
    """Cells a second of a plain loop."""
    for _ in range(WARM_STEPS):
        step()
    began, cells = _clocks(), 0
    while time.perf_counter() < began[0] + seconds:
        cells += step()
    elapsed, busy = (now - then for now, then in zip(_clocks(), began, strict=True))
    return {"cells_per_second": cells / elapsed, "cells_per_busy_second": cells / busy}


def ours(stage: Any, cells: Cells, accelerator: Any, seconds: float) -> Measured:
    """Cells a second of our loop, whose stream ends when the time is over."""
    arrivals: list[tuple[float, float, int, float]] = []

    def until_over(cells_seen: int) -> Iterator[Any]:
        for batch in cells.training(cells_seen):
            arrivals.append((*_clocks(), batch.cells_seen, cells.waited()))
            if len(arrivals) > WARM_STEPS and arrivals[-1][0] > arrivals[WARM_STEPS][0] + seconds:
                return
            yield batch

    rows: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        timed = replace(cells, training=until_over)
        run_stage(stage, timed, accelerator, directory=Path(folder), seed=0, report=rows.append)
    elapsed, busy, seen, waited = (
        last - first for first, last in zip(arrivals[WARM_STEPS], arrivals[-1], strict=True)
    )
    rates = {"cells_per_second": seen / elapsed, "cells_per_busy_second": seen / busy}
    return rates | {"data_wait_share": waited / elapsed}


def _clocks() -> tuple[float, float]:
    """Seconds that passed, and seconds that processors worked for this process: beside other work, the
    second is the fairer."""
    return time.perf_counter(), time.process_time()


def our_stage(name: str, prepared: Prepared, config: TrainConfig) -> tuple[Any, Cells, Any]:
    """What a worker of ours makes of a configuration: the stage, its cells and the accelerator."""
    accelerator = make_accelerator(config.precision)
    model = new_model(config, prepared).to(accelerator.device)
    if name == "autoencoder":
        cells = autoencoder_cells(prepared, config, accelerator)
        return AutoencoderStage(model.autoencoder, config.autoencoder), cells, accelerator
    batches = in_order(prepared, "train", 512)
    training = torch.cat([encode_counts(model.autoencoder, b.counts, accelerator.device) for b in batches])
    latents = AtlasLatents(training, torch.empty(0, training.shape[1]), "of this benchmark")
    model.whitening.fit(training)
    cells = flow_cells(latents, model, prepared, config, accelerator)
    return FlowStage(model.velocity, config.flow), cells, accelerator


def our_config(name: str, batch: int, changes: Sequence[str]) -> TrainConfig:
    """Our defaults with the reference's small velocity; no validation, no checkpoint before the end."""
    small = reference_recipe.SMALL_VELOCITY
    return load_config(
        overrides=[
            f"model.velocity.width={small.width}",
            f"model.velocity.embedding={small.embedding}",
            f"{name}.batch_cells={batch}",
            f"{name}.cells={BUDGET}",
            f"{name}.checkpoint_every_cells={BUDGET}",
            f"{name}.validation_cells=0",
            f"{name}.patience=0",
            *changes,
        ]
    )


def matrix_products(seconds: float) -> Measured:
    """The rate of square float32 products, which is what a step could reach."""
    a, b = torch.randn(2, SQUARE, SQUARE)
    a @ b
    rates, over = [], time.perf_counter() + seconds
    while time.perf_counter() < over:
        began = time.perf_counter()
        a @ b
        rates.append(2 * SQUARE**3 / (time.perf_counter() - began) / 1e9)
    return {"gflops": median(rates)}


def measure(options: argparse.Namespace) -> Measured:
    """What ``options.contender`` reaches."""
    if options.contender == "matrix-products":
        return matrix_products(options.seconds / 2)
    who, what = options.contender.split("-", 1)
    if who == "ours":
        reuse_memory()
    prepared = Prepared.open(options.data)
    rows = prepared.rows("train")[: options.dense_cells]
    some = prepared.read(rows[:512])[0]
    of_data = {"genes": some.shape[1], "non_zeros": some.nnz / some.shape[0]}
    if who == "ours":
        config = our_config(what, options.batch, options.set)
        return of_data | ours(*our_stage(what, prepared, config), options.seconds)
    torch.manual_seed(0)
    counts = prepared.read(rows)[0].toarray().astype(np.float32)
    if what.startswith("autoencoder"):
        fused = what.endswith("fused")
        loop = reference_recipe.autoencoder_loop(counts, batch=options.batch, fused=fused)
    else:
        categories = [len(c.categories) for c in prepared.schema.covariates]
        labels, cached = prepared.labels(rows), what.endswith("cached")
        loop = reference_recipe.flow_loop(counts, labels, categories, batch=options.batch, cached=cached)
    return of_data | reference(loop, options.seconds)


def machine() -> str:
    """The device that trains, and the processor beside it."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    cpu = f"{models[0].partition(':')[2].strip()}, {os.cpu_count()} cores"
    return f"{torch.cuda.get_device_name()} beside {cpu}" if torch.cuda.is_available() else cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("--data", type=Path, required=True, help="a prepared atlas")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dense-cells", type=int, default=4_096, help="most cells that the reference holds")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of ours")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with PeakMemory() as memory:
        measured = measure(options)
    print(json.dumps({**measured, **memory.peaks(), "machine": machine()}))


if __name__ == "__main__":
    main()
