"""Generation on a CUDA GPU, or in small on the CPU: cells a second to CSR on the host, and to Zarr."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cfgen_scale.model import CFGen
from jobs.generation.generate import generate_atlas
from jobs.generation.request import Group, Request
from tests.benchmarks.random_model import save_random_model
from tests.benchmarks.roofline import finish

GENERATION_GOAL = 100_000  # cells/s to CSR on the host, on one GPU


@dataclass(frozen=True)
class GenerationSize:
    """Cells that are drawn at a time, how many such chunks are timed, and genes."""

    chunk_cells: int
    chunks: int
    genes: int


FULL_GENERATION = GenerationSize(8_192, 16, 20_000)
SMALL_GENERATION = GenerationSize(128, 2, 2_000)


def generation_figures(size: GenerationSize, device: torch.device, folder: Path) -> dict[str, Any]:
    """Cells/s to CSR and to a finished Zarr by this process, each after a first chunk that is not timed, and
    the share of genes above 0."""
    path = save_random_model(folder / "model", None, genes=size.genes)
    model = CFGen.load(path, device)
    to_csr, nonzeros = _to_csr(model, size, device)
    options: dict[str, Any] = {"chunk_cells": size.chunk_cells, "device": device.type, "progress": False}
    cells = size.chunk_cells * size.chunks
    began = time.perf_counter()
    generate_atlas(path, folder / "atlas.zarr", Request((Group(cells),)), **options)
    return {
        "chunk_cells": size.chunk_cells,
        "cells_per_second_to_csr": to_csr,
        "cells_per_second_to_zarr": cells / (time.perf_counter() - began),
        "nonzero_share": nonzeros,
        "goal_cells_per_second_to_csr": GENERATION_GOAL,
    }


def _to_csr(model: CFGen, size: GenerationSize, device: torch.device) -> tuple[float, float]:
    nonzeros, began = 0, 0.0
    for index in range(size.chunks + 1):
        if index == 1:  # the first one warms up
            finish(device)
            nonzeros, began = 0, time.perf_counter()
        labels = model.draw_labels(size.chunk_cells, {}, (), seed=0, index=index)
        cells = model.generate_cells(labels, guidance=[1.0], seed=0, index=index)
        nonzeros += cells.counts[0].nnz
    drawn = size.chunk_cells * size.chunks
    return drawn / (time.perf_counter() - began), nonzeros / (drawn * size.genes)


def generation_line(found: dict[str, Any]) -> str:
    """The figures, for people."""
    return (
        f"generation in chunks of {found['chunk_cells']:,}: {found['cells_per_second_to_csr']:,.0f} cells/s "
        f"to CSR on the host (goal {found['goal_cells_per_second_to_csr']:,}), "
        f"{found['cells_per_second_to_zarr']:,.0f} cells/s to a finished Zarr by one process; "
        f"{found['nonzero_share']:.1%} of the genes above 0"
    )
