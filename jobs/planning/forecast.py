"""`cfgen-scale plan`: what an atlas costs on so many devices, in hours and bytes, and what holds it up."""

from collections.abc import Iterator, Sequence

from cfgen_scale.costs import (
    Device,
    Host,
    Seconds,
    Work,
    autoencoder_training,
    checkpoint_bytes,
    compressed_bytes,
    encoding,
    flow_training,
    generation,
    parameters,
    raw_bytes,
)
from cfgen_scale.costs.devices import DEVICES, GPU_HOST
from cfgen_scale.ode import FIXED_STEP, OdeConfig

from ..config import ConfigError, load_config
from ..generation.plan import CHUNK_CELLS

# Evaluations of the field: midpoint has two a step; an adaptive solver at 1e-5 about 180 (measured: 370-390
# for a conditional and an unconditional field together).
ADAPTIVE_EVALUATIONS = 180
REMEDIES = {
    "device": "more or faster devices",
    "link": "fewer non-zeros a cell on their way: narrower indices, or more devices",
    "loader": "a packed copy on a local disk (prepare --repack), or more reading threads a worker",
    "network": "larger batches (the all-reduce is paid once a batch), or a faster network",
    "output": "a faster disk for the files of chunks, or more of them",
    "assembly": "more cores for compressing counts, or a faster disk",
}


def planned_work(
    config_file: str | None,
    overrides: Sequence[str],
    *,
    cells: float,
    genes: int,
    nonzeros: float | None,
    gpu: str,
    gpus: int,
    epochs: float,
    batch_cells: int,
    guided: int,
) -> tuple[Work, Device, Host]:
    """The work and the machines of a plan. Raises ConfigError for a number that makes no sense, or a GPU
    without figures."""
    if gpu not in DEVICES:
        raise ConfigError(f"there are no figures of a GPU {gpu!r}. Known: {', '.join(DEVICES)}.")
    nonzeros = genes / 20 if nonzeros is None else nonzeros
    asked = {"cells": cells, "genes": genes, "gpus": gpus, "epochs": epochs, "batch-cells": batch_cells}
    for name, value in {**asked, "nonzeros": nonzeros}.items():
        if not value > 0:
            raise ConfigError(f"--{name} must be positive, not {value}.")
    if nonzeros > genes:
        raise ConfigError(f"--nonzeros {nonzeros:g} of a cell are more than its {genes} genes.")
    if guided < 0:
        raise ConfigError(f"--guided must not be negative, not {guided}.")
    model = load_config(config_file, overrides).model
    work = Work(cells, genes, nonzeros, model, epochs, batch_cells, 2 * batch_cells, 1 + guided)
    return work, DEVICES[gpu], GPU_HOST


def evaluations(ode: OdeConfig) -> int:
    """Evaluations of the field on the way from noise to a cell."""
    if ode.solver not in FIXED_STEP:
        return ADAPTIVE_EVALUATIONS
    return ode.steps * (2 if ode.solver == "midpoint" else 1)


def forecast(work: Work, device: Device, host: Host, workers: int) -> Iterator[str]:
    """Lines of a plan: the job, its stages with hours and bottleneck, bytes on disk and in memory."""
    yield (
        f"{work.cells:,.0f} cells x {work.genes:,} genes, {work.nonzeros:,.0f} non-zeros a cell, on "
        f"{workers} x {device.name}; epochs: {work.epochs:g}; batches of {work.batch:,} (autoencoder) and "
        f"{work.flow_batch:,} cells (flow) a worker"
    )
    yield f"rates: {device.source}"
    yield ""
    yield (
        f"{'':<22}{'cells/s':>13}{'time':>10}{'FLOPs':>10}   {'bound by':<9} microseconds of one cell on one "
        "worker"
    )
    stages = seconds_of(work, device, host, workers)
    spent = {name: cells * seconds.total / workers for name, (cells, seconds) in stages.items()}
    operations = {name: cells * seconds.operations for name, (cells, seconds) in stages.items()}
    for name, (_, seconds) in stages.items():
        rate = f"{workers / seconds.total:>13,.0f}{duration(spent[name]):>10}{operations[name]:>10.2g}"
        yield f"{name:<22}{rate}   {seconds.bottleneck:<9} {parts(seconds)}"
    slowest = max(spent, key=lambda name: spent[name])
    bound = stages[slowest][1].bottleneck
    yield f"{'all':<22}{'':>13}{duration(sum(spent.values())):>10}{sum(operations.values()):>10.2g}"
    yield ""
    yield f"bottleneck: {slowest}, by its {bound}. Remedy: {REMEDIES[bound]}."
    yield ""
    yield from sizes(work, device)


def seconds_of(work: Work, device: Device, host: Host, workers: int) -> dict[str, tuple[float, Seconds]]:
    """Of each stage: how many cells pass through it, and the seconds of one cell on one worker."""
    steps = evaluations(work.model.ode)
    chunk = CHUNK_CELLS["cpu" if device.link is None else "cuda"]
    return {
        "autoencoder training": (work.epochs * work.cells, autoencoder_training(work, device, host, workers)),
        "encoding": (work.cells, encoding(work, device, host)),
        "flow training": (work.epochs * work.cells, flow_training(work, device, workers)),
        "generation": (work.cells, generation(work, device, host, steps, chunk=chunk)),
    }


def parts(seconds: Seconds) -> str:
    """``device 3.1, loader 1.4``: the parts that take time, in microseconds a cell on one worker."""
    names = ("device", "link", "loader", "network", "output", "assembly")
    return ", ".join(f"{n} {1e6 * getattr(seconds, n):.3g}" for n in names if getattr(seconds, n))


def sizes(work: Work, device: Device) -> Iterator[str]:
    """Lines on bytes: atlas, latents, checkpoints, memory of a device."""
    of_autoencoder, of_velocity = parameters(work)
    latents = 4 * work.cells * work.model.autoencoder.latent
    # Weights, slopes, two moments, average; and some six dense matrices of a batch at a time.
    training = 5 * 4 * of_autoencoder + 6 * 4 * work.batch * work.genes
    yield f"{'packed atlas':<26}{in_bytes(work.cells * raw_bytes(work))} as it is, ~{_packed(work)} with zstd"
    yield f"{'generated atlas':<26}~{_packed(work)}"
    yield f"{'latents':<26}{in_bytes(latents)}, in the memory of each worker and on disk"
    yield (
        f"{'checkpoint':<26}{in_bytes(checkpoint_bytes(of_autoencoder))} autoencoder, "
        f"{in_bytes(checkpoint_bytes(of_velocity))} flow ({of_autoencoder / 1e6:.1f} M and "
        f"{of_velocity / 1e6:.1f} M parameters)"
    )
    fits = (
        "fits" if max(training, latents) < 0.9 * device.memory else "does NOT fit: smaller batches, or host"
    )
    yield (
        f"{'memory of a device':<26}{in_bytes(training)} autoencoder, {in_bytes(latents)} flow, of "
        f"{in_bytes(device.memory)}: {fits}"
    )


def _packed(work: Work) -> str:
    return in_bytes(work.cells * compressed_bytes(work))


def duration(seconds: float) -> str:
    """``4.2 h``, ``12 min`` or ``6 s``."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.2g} s"


def in_bytes(n: float) -> str:
    """``1.2 GB``, decimal."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n < 1000 or unit == "TB":
            return f"{n:.3g} {unit}"
        n /= 1000
    raise AssertionError
