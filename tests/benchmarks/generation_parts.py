"""What the time of a generated cell goes to, on one core, part by part, and how far each is from its limit.

    python -m tests.benchmarks.generation_parts --model DIR --root DIRECTORY [--chunks 8]

part         what is timed                                   its limit
field        labels to latents, `CFGen.draw_latents`         square float32 products on this core
decoder      matrix products of the decoder alone            square float32 products on this core
drawing      the rest of `CFGen.decode_cells`: softmax,      bound by its own arithmetic (drawing.py)
             draws, CSR
chunk file   the chunk written and flushed                   the same bytes written and flushed in one file
assembly     shards compressed and written                   the same arrays compressed in memory alone
"""

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numcodecs.blosc
import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from cfgen_scale.costs import Work, autoencoder_weights, field_weights
from cfgen_scale.model import CFGen
from jobs.generation.plan import CHUNK_CELLS
from loaders.atlases.assembly import Assembly
from loaders.atlases.writer import PartialAtlas
from loaders.layout import SHARD
from tests.benchmarks.measure_training import SQUARE, machine

REPEATS = 5
AT_ONCE = CHUNK_CELLS["cpu"]
PARTS = ("field", "decoder", "drawing", "chunk file", "assembly")


def seconds_of(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def product_peak() -> float:
    """Operations a second of square float32 products on one thread."""
    a, b = torch.randn(2, SQUARE, SQUARE)
    return 2 * SQUARE**3 / median(seconds_of(lambda: a @ b) for _ in range(REPEATS))


def disk_rate(folder: Path, size: int) -> float:
    """Bytes a second of one file written and flushed."""
    content, path = os.urandom(size), folder / "disk.bin"

    def write() -> None:
        with open(path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    rate = size / median(seconds_of(write) for _ in range(REPEATS))
    path.unlink()
    return rate


def compress_rate(values: NDArray[Any], *, gaps: bool) -> float:
    """Bytes a second of the codec of layout.py in memory, one thread, chunk after chunk."""
    from loaders.layout import CHUNK

    codec = numcodecs.blosc.Blosc(cname="zstd", clevel=3, shuffle=1)
    delta = numcodecs.delta.Delta(dtype=values.dtype)
    parts = [values[first : first + CHUNK] for first in range(0, len(values), CHUNK)]
    return values.nbytes / seconds_of(
        lambda: [codec.encode(delta.encode(part) if gaps else part) for part in parts]
    )


def drawn_chunks(model: CFGen, partial: PartialAtlas, n_chunks: int) -> dict[str, list[float]]:
    """Seconds of each chunk's parts; the chunks are then there."""
    seconds: dict[str, list[float]] = {part: [] for part in PARTS[:-1]}
    decoder = model.autoencoder.decoders[model.autoencoder.names[0]].network
    weights = [layer.weight.detach().T for layer in decoder.layers if isinstance(layer, torch.nn.Linear)]
    inputs = [torch.randn(AT_ONCE, len(weight)) for weight in weights]
    guidance = [1.0] * len(model.schema.covariates)
    for index in range(n_chunks):
        began = time.perf_counter()
        labels = model.draw_labels(AT_ONCE, {}, (), seed=0, index=index)
        latents = model.draw_latents(labels, guidance=guidance, seed=0, index=index)
        drawn = time.perf_counter()
        cells = model.decode_cells(latents, seed=0, index=index)
        decoded = time.perf_counter()
        partial.write_chunk(index, cells, model.schema, group=0)
        written = time.perf_counter()
        products = seconds_of(lambda: [x @ weight for x, weight in zip(inputs, weights, strict=True)])
        took = (drawn - began, products, decoded - drawn - products, written - decoded)
        for part, value in zip(seconds, took, strict=True):
            seconds[part].append(value)
    return seconds


def measure(model: CFGen, root: Path, n_chunks: int) -> dict[str, Any]:
    """Microseconds a cell of each part, its share of the whole, and its share of its limit."""
    torch.set_num_threads(1)
    numcodecs.blosc.set_nthreads(1)
    out = root / "parts.zarr"
    partial = PartialAtlas.beside(out)
    shutil.rmtree(partial.path, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    with partial.held():
        drawn_chunks(model, partial, 1)  # imports, compilation
        seconds = drawn_chunks(model, partial, n_chunks)
        file_bytes = sum(path.stat().st_size for path in partial.path.rglob("*") if path.is_file()) / n_chunks
        assembly = Assembly.of(partial, n_chunks=n_chunks, schema=model.schema, provenance={})
        assembling = seconds_of(lambda: [assembly.run(task) for task in assembly.tasks()])
        assembly.complete(out)
    cells = n_chunks * AT_ONCE
    per_cell = {part: median(values) / AT_ONCE for part, values in seconds.items()}
    per_cell["assembly"] = assembling / cells
    limits = _limits(model, root, out, cells, int(file_bytes))
    shutil.rmtree(out)
    whole = sum(per_cell.values())
    return {
        "machine": machine(),
        "genes": len(model.schema.modalities[0].features),
        "cells_per_second_of_one_core": 1 / whole,
        "parts": {
            part: {
                "microseconds_per_cell": 1e6 * value,
                "share": value / whole,
                "share_of_its_limit": limits[part] / value if part in limits else None,
            }
            for part, value in per_cell.items()
        },
    }


def _limits(model: CFGen, root: Path, out: Path, cells: int, file_bytes: int) -> dict[str, float]:
    """Seconds a cell that each part would take at its limit."""
    x = zarr.open_group(out, mode="r")["X"]
    counts, indices = (np.asarray(x[name][:SHARD]) for name in ("data", "indices"))
    nonzeros = x["data"].shape[0] / cells
    peak = product_peak()
    work = Work(cells, len(model.schema.modalities[0].features), nonzeros, model.config)
    # Fields of one attribute each, and the unconditional one, whose coefficient is 0 with one attribute.
    attributes = len(model.schema.covariates)
    fields = attributes + (attributes != 1)
    per_step = {"midpoint": 2, "euler": 1}[model.config.ode.solver]
    codec = nonzeros * (
        counts.itemsize / compress_rate(counts, gaps=False)
        + indices.itemsize / compress_rate(indices, gaps=True)
    )
    return {
        "field": fields * model.config.ode.steps * per_step * 2 * field_weights(work) / peak,
        "decoder": 2 * autoencoder_weights(work)[1] / peak,
        "chunk file": file_bytes / AT_ONCE / disk_rate(root, file_bytes),
        "assembly": codec,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The document, for people."""
    head = f"{'part':<12}{'us a cell':>11}{'share':>8}{'of its limit':>14}"
    rows = [
        f"{part:<12}{one['microseconds_per_cell']:>11.1f}{one['share']:>8.0%}"
        + (f"{one['share_of_its_limit']:>14.0%}" if one["share_of_its_limit"] else f"{'':>14}")
        for part, one in found["parts"].items()
    ]
    limiting = max(found["parts"].items(), key=lambda item: item[1]["share"])[0]
    said = f"{found['cells_per_second_of_one_core']:,.0f} cells/s of one core; {limiting} limits"
    return [f"{found['machine']}, {found['genes']:,} genes", head, *rows, said]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--out", type=Path, help="JSON")
    options = parser.parse_args()
    options.root.mkdir(parents=True, exist_ok=True)
    found = measure(CFGen.load(options.model), options.root, options.chunks)
    print("\n".join(lines(found)))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
