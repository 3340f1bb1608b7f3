"""`cfgen-scale plan --measure`: the cost model beside a short real training on this machine."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cfgen_scale.costs import Device, Host, Seconds, Work
from cfgen_scale.model import CFGen
from cfgen_scale.training.config import TrainConfig
from cfgen_scale.training.loop import run_stage
from cfgen_scale.training.stage_run import Cells
from cfgen_scale.training.stages import AutoencoderStage, FlowStage, Stage
from loaders.preparation.prepare import prepare
from loaders.preparation.prepared import Prepared
from loaders.streaming.stream import CellStream

from ..training.encode import AtlasLatents, encode_counts
from ..training.feed import autoencoder_cells, flow_cells
from ..training.worker import make_accelerator, new_model
from .forecast import seconds_of
from .measure_machine import DENSITY, best_seconds, measured_device, measured_host, simulated

CELLS, BATCH = 4096, 512
GENERATED = 256


def measure(genes: int) -> Iterator[str]:
    """Lines: this machine's rates, and predicted and measured cells/s of each stage side by side."""
    from anndata import AnnData

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        AnnData(simulated(CELLS, genes)).write_h5ad(folder / "atlas.h5ad")
        prepared = prepare(
            folder / "atlas.h5ad",
            folder / "prepared",
            min_cells_per_gene=0,
            test_fraction=0.0,
            progress=False,
        )
        config = _short_training()
        device = measured_device(BATCH, config.model.autoencoder.hidden[0], genes)
        host = measured_host(prepared, genes, folder)
        yield from _rates(device, host)
        work = Work(CELLS, genes, DENSITY * genes, config.model, batch=BATCH, flow_batch=BATCH)
        yield from _compared(seconds_of(work, device, host, 1), _real_rates(config, prepared, folder))


def _short_training() -> TrainConfig:
    """The default recipe: sixty steps of the autoencoder, 240 of the flow; of each ten the time is taken."""
    default, ten = TrainConfig(), 10 * BATCH
    short: dict[str, Any] = {"batch_cells": BATCH, "validation_cells": 0, "patience": 0}
    return TrainConfig(
        autoencoder=replace(default.autoencoder, cells=6 * ten, checkpoint_every_cells=6 * ten, **short),
        flow=replace(default.flow, cells=24 * ten, checkpoint_every_cells=24 * ten, **short),
    )


def _rates(device: Device, host: Host) -> Iterator[str]:
    yield f"this machine ({device.source}):"
    yield f"  matrix products  {device.flops / 1e9:,.0f} GFLOP/s"
    yield f"  memory           {device.memory_rate / 1e9:,.1f} GB/s (copied bytes counted twice)"
    if device.likelihood and device.rows:
        yield f"  likelihood       {device.likelihood / 1e6:,.0f} M genes/s, forwards and backwards"
        yield f"  first layer      {device.rows / 1e9:,.1f} GB/s of rows of weights"
    yield f"  reading          {host.nonzeros / 1e6:,.0f} M non-zeros/s"
    yield f"  drawing counts   {host.draws / 1e6:,.1f} M genes/s"
    yield f"  compressing      {host.compress / 1e6:,.0f} MB/s"
    yield f"  disk, flushed    {host.disk / 1e6:,.0f} MB/s"
    yield ""


def _compared(predicted: dict[str, tuple[float, Seconds]], measured: dict[str, float]) -> Iterator[str]:
    yield f"{'cells/s':<24}{'predicted':>12}{'measured':>12}{'ratio':>8}   bound by"
    for name, (_, of_stage) in predicted.items():
        # What is generated here is not written.
        seconds = replace(of_stage, output=0.0, assembly=0.0)
        rate = 1 / seconds.total
        ratio = measured[name] / rate
        yield f"{name:<24}{rate:>12,.0f}{measured[name]:>12,.0f}{ratio:>8.2f}   {seconds.bottleneck}"


def _real_rates(config: TrainConfig, prepared: Prepared, folder: Path) -> dict[str, float]:
    """Cells/s of each stage as it is, undisturbed: the best of a few times, as of what is predicted from."""
    accelerator = make_accelerator(config.precision)
    model = new_model(config, prepared)
    cells = autoencoder_cells(prepared, config, accelerator)
    of_autoencoder = _training_rate(AutoencoderStage(model.autoencoder, config.autoencoder), cells, folder)
    counts = next(iter(CellStream(prepared, split="train", batch_cells=BATCH, seed=0))).counts
    encode = best_seconds(lambda: encode_counts(model.autoencoder, counts, accelerator.device), 10)
    latents = encode_counts(model.autoencoder, counts, accelerator.device)
    rows = len(prepared.rows("train"))
    train = latents.repeat(-(-rows // len(latents)), 1)[:rows]
    held_out = latents[:1].repeat(len(prepared.rows("validation")), 1)
    model.whitening.fit(train)
    cells = flow_cells(AtlasLatents(train, held_out, ""), model, prepared, config, accelerator)
    of_flow = _training_rate(FlowStage(model.velocity, config.flow), cells, folder)
    return {
        "autoencoder training": of_autoencoder,
        "encoding": BATCH / encode,
        "flow training": of_flow,
        "generation": _generation_rate(model),
    }


def _training_rate(stage: Stage[Any], cells: Cells, folder: Path) -> float:
    rows: list[dict[str, float]] = []
    run_stage(
        stage,
        cells,
        make_accelerator("auto"),
        directory=folder / stage.name,
        seed=0,
        report=rows.append,
    )
    return max(row["cells_per_second"] for row in rows[1:])


def _generation_rate(model: CFGen) -> float:
    labels = model.draw_labels(GENERATED, {}, seed=0)
    return GENERATED / best_seconds(lambda: model.generate_cells(labels, guidance=(), seed=0), 4)
