"""How many steps of which solver are enough: quality and speed of one trained model, solver by solver.

    python -m tests.benchmarks.solvers --run RUN --data PREPARED --label cell_type [--seeds 0 1 2]
    python -m tests.benchmarks.solvers --run RUN --train FILE --test FILE --label cell_type

Every solver begins at the same noise, labels and size factors, so that what differs is the solver's doing:
``apart`` is the root mean square distance of a cell's latent from where dopri5 at 1e-5 takes it, over the
root mean square norm of those. W2 is the neutral conditional one of `evaluate`, beside its floor, and its
standard deviation over seeds; AUC that of telling generated from real; variance that within classes over
real; precision that over its floor. ``evaluations`` are those of the field. Times are medians of --rounds
interleaved rounds on one thread, of latents alone and of whole cells (latents, decoder, draws).
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from cfgen_scale.annotate import cells_to_anndata
from cfgen_scale.evaluation import evaluate
from cfgen_scale.model import CFGen
from cfgen_scale.ode import FIXED_STEP, OdeConfig
from cfgen_scale.types import GeneratedCells, IntArray
from jobs.evaluation.evaluate import real_cells
from jobs.generation.plan import CHUNK_CELLS
from tests.benchmarks.measure_training import machine
from tests.benchmarks.study_trial import figures

AT_ONCE = CHUNK_CELLS["cpu"]
EXACT = OdeConfig("dopri5", tolerance=1e-5)
SOLVERS = (
    *(OdeConfig("euler", steps=n) for n in (10, 20, 50, 100)),
    *(OdeConfig("midpoint", steps=n) for n in (3, 5, 10, 20, 50)),
    *(OdeConfig("dopri5", tolerance=t) for t in (1e-3, 1e-4)),
    EXACT,
)
Chunks = list[tuple[int, IntArray]]


def name(ode: OdeConfig) -> str:
    return f"{ode.solver} {ode.steps}" if ode.solver in FIXED_STEP else f"{ode.solver} {ode.tolerance:g}"


def chunks_of(model: CFGen, cells: int, seed: int) -> Chunks:
    """Index and labels of each chunk, as they occur together."""
    return [
        (index, model.draw_labels(min(AT_ONCE, cells - first), {}, (), seed=seed, index=index))
        for index, first in enumerate(range(0, cells, AT_ONCE))
    ]


def latents_of(model: CFGen, chunks: Chunks, seed: int, ode: OdeConfig) -> Iterator[GeneratedCells]:
    guidance = [1.0] * len(model.schema.covariates)
    for index, labels in chunks:
        yield model.draw_latents(labels, guidance=guidance, seed=seed, index=index, ode=ode)


def cells_of(model: CFGen, chunks: Chunks, seed: int, ode: OdeConfig) -> list[GeneratedCells]:
    latents = latents_of(model, chunks, seed, ode)
    return [
        model.decode_cells(drawn, seed=seed, index=index)
        for (index, _), drawn in zip(chunks, latents, strict=True)
    ]


def evaluations(model: CFGen, labels: IntArray, ode: OdeConfig) -> int:
    """Times that the field is evaluated for one chunk."""
    n = 0

    def count(*_: object) -> None:
        nonlocal n
        n += 1

    hook = model.velocity.register_forward_hook(count)
    list(latents_of(model, [(0, labels)], 0, ode))
    hook.remove()
    return n


def apart(some: list[GeneratedCells], exact: list[GeneratedCells]) -> float:
    """Root mean square distance of latents, over the root mean square norm of the exact ones."""
    one, other = (np.concatenate([c.latent for c in cells]) for cells in (some, exact))
    return float(np.sqrt(((one - other) ** 2).sum() / (other**2).sum()))


def quality(model: CFGen, real: Any, label: str, cells: int, seeds: list[int]) -> dict[str, Any]:
    """Of each solver: W2 with its floor and spread, and how far latents are from the exact solver's."""
    train, test = real
    found: dict[str, Any] = {}
    chunks = {seed: chunks_of(model, cells, seed) for seed in seeds}
    exact = {seed: cells_of(model, chunks[seed], seed, EXACT) for seed in seeds}
    for ode in SOLVERS:
        made = {seed: cells_of(model, chunks[seed], seed, ode) for seed in seeds}
        sets = [cells_to_anndata(made[seed], model.schema) for seed in seeds]
        metrics = evaluate(train, test, sets, label=label, seeds=seeds)
        found[name(ode)] = {
            "ode": asdict(ode),
            "w2": metrics["protocols"]["neutral"]["conditional"]["w2"],
            "figures": figures(metrics),
            "apart": max(apart(made[seed], exact[seed]) for seed in seeds),
            "evaluations": evaluations(model, chunks[seeds[0]][0][1], ode),
        }
        print(line(name(ode), found[name(ode)]), flush=True)
    return found


def rates(model: CFGen, cells: int, rounds: int) -> dict[str, dict[str, float]]:
    """Of each solver: cells/s of latents alone, and of whole cells."""
    chunks = chunks_of(model, cells, 0)
    seconds: dict[str, list[tuple[float, float]]] = {name(ode): [] for ode in SOLVERS}
    for _ in range(rounds):
        for ode in SOLVERS:
            began = time.perf_counter()
            drawn = list(latents_of(model, chunks, 0, ode))
            between = time.perf_counter()
            for (index, _), latents in zip(chunks, drawn, strict=True):
                model.decode_cells(latents, seed=0, index=index)
            seconds[name(ode)].append((between - began, time.perf_counter() - began))
    return {
        solver: {
            "latents_per_second": cells / median(latents for latents, _ in of_rounds),
            "cells_per_second": cells / median(whole for _, whole in of_rounds),
        }
        for solver, of_rounds in seconds.items()
    }


def line(solver: str, one: dict[str, Any]) -> str:
    w2, rate = one["w2"], ""
    if "cells_per_second" in one:
        rate = f"{one['latents_per_second']:>13,.0f}{one['cells_per_second']:>11,.0f}"
    also = [one["figures"][name] for name in ("auc", "variance", "precision")]
    shown = (w2["value"], w2["spread"], w2["floor"], w2["ratio"], *also)
    said = "".join(f"{'-' if figure is None else f'{figure:.3f}':>8}" for figure in shown)
    return f"{solver:<14}{one['evaluations']:>12}{said}{one['apart']:>10.2e}{rate}"


FIGURES = ("W2", "sd", "floor", "ratio", "AUC", "var.", "prec.")
HEAD = f"{'solver':<14}{'evaluations':>12}{''.join(f'{name:>8}' for name in FIGURES)}{'apart':>10}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run, or a model directory")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--train", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--label", required=True)
    parser.add_argument("--cells", type=int, default=4_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = CFGen.load(options.run / "model" if (options.run / "model").is_dir() else options.run)
    real = real_cells(options.data, options.train, options.test)
    print(HEAD, flush=True)
    found = quality(model, real, options.label, options.cells, options.seeds)
    for solver, rate in rates(model, min(options.cells, 2 * AT_ONCE), options.rounds).items():
        found[solver] |= rate
    print(f"\n{machine()}, one thread\n{HEAD}{'latents/s':>13}{'cells/s':>11}")
    print("\n".join(line(solver, one) for solver, one in found.items()))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
