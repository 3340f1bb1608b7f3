"""Runtime on this machine: the paper's Fig. A1 and Tables 5 and 6.

    python -m tests.benchmarks.runtime [--paper] [--training] [--threads 1] [--out runtime.json]

Fig. A1: seconds to generate cells by an untrained model, one of genes, cells, width, blocks and embedding
varied at a time, for several sizes of the latent. `--paper` takes the paper's defaults (20,000 genes, 50,000
cells) instead of a grid of a few minutes. Table 6: seconds to generate as many cells and genes as each data
set has, from the rate at that many genes over a part of the cells; with `--whole` all of them are generated.
Table 5 (`--training`): seconds of an epoch of each stage, from the rate of a short training on simulated
cells of that many genes. The paper does not name the hardware of its figures: beside ours they say little of
the method.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cfgen_scale.autoencoder import AutoencoderConfig
from cfgen_scale.labels import LabelFrequencies
from cfgen_scale.model import CFGen
from cfgen_scale.model_config import ModelConfig
from cfgen_scale.ode import OdeConfig
from cfgen_scale.size_factors import SizeFactors
from cfgen_scale.types import AtlasSchema, Covariate, Modality
from cfgen_scale.velocity import VelocityConfig
from tests.benchmarks.scaling import begin, prepare_cells, rates

BATCH_CELLS = 512
PART_CELLS = 2048
# Table 4: cells and genes; the paper's seconds: training flow, training autoencoder (Table 5), generation (6)
PAPER = {
    "PBMC3K": (2_638, 8_573, 1.02, 1.40, 0.34),
    "Dentate gyrus": (18_213, 17_002, 7.13, 6.31, 0.26),
    "Tabula Muris": (245_389, 19_734, 69.00, 68.40, 3.68),
    "HLCA": (584_944, 27_997, 192.12, 253.21, 8.62),
    "PBMC10K (RNA)": (10_025, 25_604, 3.23, 6.30, 0.43),
}


@dataclass(frozen=True)
class Shape:
    """What decides the time of generation; the defaults are the small grid's."""

    genes: int = 5_000
    cells: int = 1_024
    latent: int = 50
    width: int = 256
    blocks: int = 3
    embedding: int = 128
    steps: int = 10


SMALL = {
    "genes": (1_000, 5_000, 20_000),
    "cells": (512, 1_024, 2_048),
    "width": (64, 256, 512),
    "blocks": (1, 3, 6),
    "embedding": (32, 128, 256),
}
LARGE = SMALL | {"genes": (5_000, 20_000, 50_000), "cells": (10_000, 50_000, 100_000)}
LATENTS = (10, 50, 128)


def untrained(shape: Shape) -> CFGen:
    """A model of that shape; genes are as abundant as in an atlas, so that a cell has some 5 % non-zeros."""
    totals = torch.from_numpy(np.random.default_rng(0).lognormal(0, 2, shape.genes)).float() * 1e6
    log_size = float(np.log(0.1 * shape.genes))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CFGen(
            ModelConfig(
                AutoencoderConfig(latent=shape.latent),
                VelocityConfig(width=shape.width, blocks=shape.blocks, embedding=shape.embedding),
                ode=OdeConfig(steps=shape.steps),
            ),
            AtlasSchema(
                (Modality("rna", "negative_binomial", tuple(f"g{i}" for i in range(shape.genes))),),
                (Covariate("cell_type", ("a", "b")),),
            ),
            size_factors=SizeFactors(
                (),
                torch.tensor([[log_size]]),
                torch.tensor([[0.3]]),
                torch.tensor([[log_size - 1, log_size + 1]]),
            ),
            frequencies=LabelFrequencies.of([((0,), 1), ((1,), 1)], 1),
            feature_totals=[totals],
        ).eval()


def seconds_to_generate(shape: Shape) -> float:
    """From noise to CSR counts, in batches of BATCH_CELLS, after one batch that is not counted."""
    model = untrained(shape)

    def draw(n: int, index: int) -> None:
        labels = model.draw_labels(n, {}, seed=0, index=index)
        model.generate_cells(labels, guidance=[1.0], seed=0, index=index)

    draw(min(BATCH_CELLS, shape.cells), 0)
    began = time.perf_counter()
    for index, first in enumerate(range(0, shape.cells, BATCH_CELLS)):
        draw(min(BATCH_CELLS, shape.cells - first), index)
    return time.perf_counter() - began


def grid(
    base: Shape, varied: dict[str, tuple[int, ...]], say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Fig. A1: one parameter at a time, for each size of the latent."""
    for name, values in varied.items():
        say(f"{name:<12}" + "".join(f"{f'D = {latent}':>14}" for latent in LATENTS) + "   seconds")
        for value in values:
            line = f"{value:<12,}"
            for latent in LATENTS:
                shape = replace(base, latent=latent, **{name: value})
                seconds = seconds_to_generate(shape)
                line += f"{seconds:>14.2f}"
                yield {
                    "varied": name,
                    **asdict(shape),
                    "seconds": seconds,
                    "cells_per_second": shape.cells / seconds,
                }
            say(line)


def generation_table(base: Shape, *, whole: bool, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Table 6."""
    say(f"{'data set':<16}{'cells':>10}{'genes':>8}{'cells/s':>10}{'seconds':>10}{'paper':>8}")
    for name, (cells, genes, _, _, theirs) in PAPER.items():
        drawn = cells if whole else min(cells, PART_CELLS)
        rate = drawn / seconds_to_generate(replace(base, genes=genes, cells=drawn))
        say(f"{name:<16}{cells:>10,}{genes:>8,}{rate:>10,.0f}{cells / rate:>10.1f}{theirs:>8}")
        yield {
            "data": name,
            "cells": cells,
            "genes": genes,
            "drawn": drawn,
            "cells_per_second": rate,
            "paper": theirs,
        }


def training_table(say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Table 5: an epoch of each stage, from cells/s of a short training (tests/benchmarks/scaling.py)."""
    say(f"{'data set':<16}{'flow s':>10}{'paper':>8}{'autoencoder s':>15}{'paper':>8}   an epoch")
    for name, (cells, genes, flow, autoencoder, _) in PAPER.items():
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            rate = rates(begin(prepare_cells(Path(folder), genes), run, 1), run)
        seconds = {stage: cells / rate[stage] for stage in rate}
        say(f"{name:<16}{seconds['flow']:>10.1f}{flow:>8}{seconds['autoencoder']:>15.1f}{autoencoder:>8}")
        yield {"data": name, "cells_per_second": rate, "seconds": seconds, "paper": [flow, autoencoder]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--paper", action="store_true", help="20,000 genes, 50,000 cells, latent to 128")
    parser.add_argument("--whole", action="store_true", help="generate all cells of Table 6")
    parser.add_argument("--training", action="store_true", help="Table 5 too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    base = Shape(genes=20_000, cells=50_000) if asked.paper else Shape()
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {asked.threads} used"
    print(machine, flush=True)

    def say(line: str) -> None:
        print(line, flush=True)

    measured = {
        "machine": machine,
        "fig_a1": list(grid(base, LARGE if asked.paper else SMALL, say)),
        "table_6": list(generation_table(base, whole=asked.whole, say=say)),
        "table_5": list(training_table(say)) if asked.training else [],
    }
    if asked.out:
        asked.out.write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
