"""Training and generation on a CUDA GPU: cells a second, the limits of a step, bfloat16 beside float32.

    python -m tests.benchmarks.gpu [--out gpu.json]

Without a GPU the same code runs in small on the CPU, and says so: its figures then show no more than that it
runs. Cells are those of the simulated atlas, 20,000 genes and 1,000 non-zeros each, in batches of CSR that
already lie in the host's memory: pinned and copied ahead (resident_batches.py), or copied as a run does it.
A step is that of a run, `StageRun.step`: gradients, clipping, fused AdamW, averaged weights; networks have
their default sizes. Goal: 300,000 cells/s of the autoencoder.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState

from cfgen_scale.autoencoder import Autoencoder
from cfgen_scale.costs import Work
from cfgen_scale.training import AutoencoderStage, AutoencoderStageConfig, Cells, FlowStage, FlowStageConfig
from cfgen_scale.training.loop import initialised
from cfgen_scale.training.stage_run import StageRun
from cfgen_scale.types import AtlasSchema, CellBatch, Covariate, Modality
from cfgen_scale.velocity import Velocity
from jobs.config import load_config
from jobs.training.worker import make_accelerator
from tests.benchmarks.gpu_generation import (
    FULL_GENERATION,
    SMALL_GENERATION,
    GenerationSize,
    generation_figures,
    generation_line,
)
from tests.benchmarks.measure_training import machine
from tests.benchmarks.resident_batches import (
    DeviceAutoencoderStage,
    PinnedBatch,
    as_a_run_copies,
    copied_ahead,
    host_batches,
    latent_batches,
)
from tests.benchmarks.roofline import (
    BFLOAT16,
    FLOAT32,
    Precision,
    finish,
    kernels,
    memory_peak,
    precisions,
    product_peak,
    shares,
)
from tests.benchmarks.simulated_counts import GENES, TYPES

GOAL = 300_000
WARM_STEPS = 5
SMOOTHED = 20  # steps
MODEL = load_config(overrides=["model.autoencoder.latent_noise=0"]).model  # nothing is disturbed here


@dataclass(frozen=True)
class Size:
    """How much is measured: cells and genes of the atlas, batches, steps that are timed and of the loss
    curves, and the matrices and bytes by which the device's own limits are measured."""

    cells: int
    genes: int
    batch: int
    flow_cells: int
    flow_batch: int
    steps: int
    curve_steps: int
    square: int
    copied: int


FULL = Size(65_536, GENES, 4_096, 1_000_000, 8_192, 100, 300, 8_192, 2**31)
SMALL = Size(2_048, 2_000, 256, 20_000, 1_024, 5, 100, 1_024, 2**26)


def autoencoder(genes: int) -> Autoencoder:
    """A new one of the default size; its start depends on nothing else."""
    modality = Modality("rna", "negative_binomial", tuple(map(str, range(genes))))
    schema = AtlasSchema((modality,), (Covariate("cell_type", tuple(map(str, range(TYPES)))),))
    made = initialised(lambda: Autoencoder(MODEL.autoencoder, schema, [torch.ones(genes)]), 0)
    assert isinstance(made, Autoencoder)
    return made


def velocity() -> Velocity:
    made = initialised(
        lambda: Velocity(
            MODEL.velocity,
            latent=MODEL.autoencoder.latent,
            n_categories=[TYPES],
            log_size_range=torch.tensor([[0.0, 1.0]]),
        ),
        0,
    )
    assert isinstance(made, Velocity)
    return made


def begun(stage: Any, precision: Precision, folder: str) -> StageRun:
    """A run's stage at its start, on the device of the machine; its batches come from elsewhere."""
    precision.use()
    AcceleratorState._reset_state(reset_partial_state=True)
    nothing: Any = iter(())
    cells = Cells(lambda seen: nothing, lambda: (), 1, has_validation=False, waited=lambda: 0.0, order="")
    accelerator = make_accelerator(precision.setting)
    return StageRun(stage, cells, accelerator, directory=Path(folder), seed=0, data={}, versions={})


def autoencoder_run(stage: type[AutoencoderStage], size: Size, precision: Precision, folder: str) -> StageRun:
    config = AutoencoderStageConfig(cells=10**12, batch_cells=size.batch, learning_rate=1e-3)
    return begun(stage(autoencoder(size.genes), config), precision, folder)


def rate(run: StageRun, batches: Iterator[Any], steps: int) -> float:
    """Cells a second, without the first steps."""
    device = run.accelerator.device
    for _ in range(WARM_STEPS):
        run.step(next(batches))
    finish(device)
    began, seen = time.perf_counter(), run.state.cells_seen
    for _ in range(steps):
        run.step(next(batches))
    finish(device)
    return (run.state.cells_seen - seen) / (time.perf_counter() - began)


def autoencoder_figures(
    size: Size, host: list[CellBatch], device: torch.device, folder: str
) -> dict[str, Any]:
    """Of each precision: cells/s, shares of the device's limits, and what takes the time."""
    nonzeros = sum(batch.counts[0].nnz for batch in host) / (len(host) * size.batch)
    work = Work(size.cells, size.genes, nonzeros, MODEL, batch=size.batch)
    pinned = [PinnedBatch.of(batch, device) for batch in host]
    memory_rate = memory_peak(device, size.copied)
    found: dict[str, Any] = {"nonzeros_per_cell": nonzeros, "memory_bytes_per_second": memory_rate}
    for precision in precisions(device):
        flops = product_peak(precision, device, size.square)
        run = autoencoder_run(DeviceAutoencoderStage, size, precision, folder)
        ahead = copied_ahead(pinned, device)
        reached = rate(run, ahead, size.steps)
        top = kernels(lambda run=run, ahead=ahead: run.step(next(ahead)), device)
        run = autoencoder_run(AutoencoderStage, size, precision, folder)
        found[precision.name] = {
            "cells_per_second": reached,
            "cells_per_second_copied_by_the_stage": rate(run, as_a_run_copies(host), size.steps),
            "product_flops": flops,
            **shares(reached, work, flops, memory_rate, device),
            "kernels": top,
        }
    return found


def flow_figures(size: Size, device: torch.device, folder: str) -> dict[str, float]:
    """Cells/s of the flow from resident latents, in each precision."""
    config = FlowStageConfig(cells=10**12, batch_cells=size.flow_batch, learning_rate=1e-3)
    found = {}
    for precision in precisions(device):
        latent = MODEL.autoencoder.latent
        batches = latent_batches(size.flow_cells, size.flow_batch, latent, TYPES, device)
        run = begun(FlowStage(velocity(), config), precision, folder)
        found[precision.name] = rate(run, batches, size.steps)
    return found


def loss_curves(size: Size, host: list[CellBatch], device: torch.device, folder: str) -> dict[str, Any]:
    """Losses per cell of the same steps in float32 and in bfloat16, smoothed, and how far they are apart."""
    pinned = [PinnedBatch.of(batch, device) for batch in host]
    curves = {}
    for precision in (FLOAT32, BFLOAT16):
        run = autoencoder_run(DeviceAutoencoderStage, size, precision, folder)
        batches = copied_ahead(pinned, device)
        losses = torch.stack([run.step(next(batches))[0] for _ in range(size.curve_steps)]) / size.batch
        curves[precision.name] = losses.cpu().double().unfold(0, min(SMOOTHED, size.curve_steps), 1).mean(1)
    apart = (curves["bfloat16"] / curves["float32"] - 1).abs()
    return {
        "largest_relative_difference": float(apart.max()),
        "last_relative_difference": float(apart[-1]),
        **{name: curve.tolist() for name, curve in curves.items()},
    }


def measure(size: Size, generation: GenerationSize) -> dict[str, Any]:
    """All figures of this machine's device, as one JSON document."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    host = host_batches(size.cells, size.genes, size.batch)
    with tempfile.TemporaryDirectory() as folder:
        return {
            "machine": machine(),
            "in_small_on_the_cpu": device.type == "cpu",
            "torch": torch.__version__,
            "size": asdict(size),
            "goal_cells_per_second": GOAL,
            "autoencoder": autoencoder_figures(size, host, device, folder),
            "flow_cells_per_second": flow_figures(size, device, folder),
            "loss_curves": loss_curves(size, host, device, folder),
            "generation": generation_figures(generation, device, Path(folder) / "generation"),
        }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The document, for people."""
    if found["in_small_on_the_cpu"]:
        yield "There is no CUDA GPU here: the same code in small on the CPU. These are no figures of a GPU."
    size, of_autoencoder = found["size"], found["autoencoder"]
    nonzeros = of_autoencoder["nonzeros_per_cell"]
    yield f"{found['machine']}; {size['genes']:,} genes, {nonzeros:,.0f} non-zeros a cell"
    yield f"memory {of_autoencoder['memory_bytes_per_second'] / 1e9:,.0f} GB/s; goal {GOAL:,} cells/s"
    for precision, flow_rate in found["flow_cells_per_second"].items():
        one = of_autoencoder[precision]
        yield (
            f"{precision:<9} autoencoder {one['cells_per_second']:>10,.0f} cells/s (copied by the stage "
            f"{one['cells_per_second_copied_by_the_stage']:,.0f}), {one['share_of_both']:.0%} of its limits: "
            f"{one['share_of_arithmetic']:.0%} of {one['product_flops'] / 1e12:,.1f} TFLOP/s, "
            f"{one['share_of_memory']:.0%} of the memory; flow {flow_rate:,.0f} cells/s"
        )
        for kernel in one["kernels"]:
            yield f"    {kernel['share']:>6.1%}  {kernel['name'][:100]}"
    curves = found["loss_curves"]
    yield (
        f"bfloat16 beside float32, {size['curve_steps']} steps, losses smoothed over {SMOOTHED}: at most "
        f"{curves['largest_relative_difference']:.3%} apart, {curves['last_relative_difference']:.3%} last"
    )
    yield generation_line(found["generation"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write all figures there, as JSON")
    options = parser.parse_args()
    sizes = (FULL, FULL_GENERATION) if torch.cuda.is_available() else (SMALL, SMALL_GENERATION)
    found = measure(*sizes)
    print("\n".join(lines(found)))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
