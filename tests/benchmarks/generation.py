"""Whole generations to a finished Zarr, 20,000 genes, beside the reference's recipe, in interleaved rounds.

    python -m tests.benchmarks.generation --root DIRECTORY --run RUN [--cells 20000] [--rounds 3]
    python -m tests.benchmarks.generation --root DIRECTORY --run RUN --large

Ours with 2 workers and with 1, each against a plain loop of the reference's recipe (reference_generation.py)
on as many threads; medians over rounds of the ratios within a round. Every measurement is a process of its
own (measure_generation.py). Cells/s are those of the whole time, the start of actors and assembly included,
which are told beside. Then peak memory with ten times the cells, of all processes and of the largest, by the
kernel's high-water marks; and the parts of the time on one core (generation_parts.py). --large:
instead of all that 1,000,000 cells x 2,000 genes and 100,000 x 20,000 genes. Ends with 1 where a target is
missed, naming it.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from cfgen_scale.model import CFGen
from tests.benchmarks import generation_parts, measure_generation, solvers
from tests.benchmarks.random_model import save_random_model

GENES = 20_000
TARGET = 5.0  # times the plain loop
MEMORY_TARGET = 1.1  # of the peak of a tenth of the cells
LARGE = ((1_000_000, 2_000), (100_000, 20_000))
WORKERS = (2, 1)
PEAKS = {
    "tree_peak_rss": "high-water marks of all processes together",
    "largest_peak_rss": "high-water mark of the largest process",
}
Measured = dict[str, Any]


def measure(contender: str, model: Path, root: Path, cells: int, workers: int) -> Measured:
    """One measurement in a new process with as many threads as workers."""
    module = measure_generation.__name__
    command = [sys.executable, "-W", "ignore", "-m", module, contender, "--model", str(model)]
    command += ["--out", str(root / f"{contender}.zarr"), "--cells", str(cells), "--workers", str(workers)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(workers))
    ran = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"{contender} with {cells:,} cells failed:\n{ran.stderr}")
    measured: Measured = json.loads(ran.stdout.splitlines()[-1])
    measured["cells_per_second"] = measured["cells"] / measured["seconds"]
    measured["load"] = os.getloadavg()[0]
    return measured


def side_by_side(model: Path, root: Path, cells: int, rounds: int) -> dict[str, Any]:
    """Of each number of workers: the rounds of both, and the median ratio of cells/s within a round."""
    found: dict[str, Any] = {f"{workers} workers": {"ours": [], "reference": []} for workers in WORKERS}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
        for workers in WORKERS:
            for contender, of_contender in found[f"{workers} workers"].items():
                of_contender.append(measure(contender, model, root, cells, workers))
    for both in found.values():
        pairs = zip(both["ours"], both["reference"], strict=True)
        ratios = [one["cells_per_second"] / other["cells_per_second"] for one, other in pairs]
        both["times_reference"] = median(ratios)
    return found


def of_fields(model: CFGen) -> str:
    """How often each of the two evaluates the field for a cell."""
    labels = model.draw_labels(solvers.AT_ONCE, {}, (), seed=0)
    ours, theirs = (
        f"{solvers.name(ode)}, {solvers.evaluations(model, labels, ode)} evaluations"
        for ode in (model.config.ode, solvers.EXACT)
    )
    return f"ours integrates by {ours}; the reference by {theirs}"


def in_lines(found: dict[str, Any]) -> Iterator[str]:
    """The rounds, for people."""
    yield f"{'':<23}{'cells/s':>9}{'seconds':>9}{'start':>7}{'assembly':>10}{'GB, all':>9}{'largest':>9}"
    for workers, both in found.items():
        for contender in ("ours", "reference"):
            one = {name: median(m.get(name, 0) for m in both[contender]) for name in NAMES}
            yield (
                f"{workers:<12}{contender:<11}{one['cells_per_second']:>9,.0f}{one['seconds']:>9.1f}"
                f"{one['seconds_to_first_chunk']:>7.1f}{one['seconds_behind_chunks']:>10.1f}"
                f"{one['tree_peak_rss'] / 1e9:>9.2f}{one['largest_peak_rss'] / 1e9:>9.2f}"
            )
        yield f"{workers:<12}{both['times_reference']:.1f} times the reference's recipe (target {TARGET:g})"


NAMES = (
    "cells_per_second",
    "seconds",
    "seconds_to_first_chunk",
    "seconds_behind_chunks",
    "tree_peak_rss",
    "largest_peak_rss",
)


def large(root: Path, run: Path) -> list[Measured]:
    """The two atlases that must be shown, end to end with two workers."""
    found = []
    for cells, genes in LARGE:
        model = save_random_model(root / f"model-{genes}", run, genes=genes)
        one = measure("ours", model, root, cells, max(WORKERS))
        found.append(one)
        print(
            f"{cells:,} cells x {genes:,} genes: {one['seconds']:.0f} s, of which "
            f"{one['seconds_behind_chunks']:.0f} s of assembly ({one['cells_per_second']:,.0f} cells/s), "
            f"{one['bytes_per_cell']:.0f} bytes a cell, {one['files']} files, peak "
            f"{one['tree_peak_rss'] / 1e9:.2f} GB of all processes and "
            f"{one['largest_peak_rss'] / 1e9:.2f} GB of the largest one",
            flush=True,
        )
    return found


def small(root: Path, run: Path, cells: int, rounds: int) -> tuple[dict[str, Any], list[str]]:
    """All but the large atlases: figures, and the targets that were missed."""
    model = save_random_model(root / f"model-{GENES}", run, genes=GENES)
    print(of_fields(CFGen.load(model)), flush=True)
    found = side_by_side(model, root, cells, rounds)
    print("\n".join(in_lines(found)), flush=True)
    few, many = (measure("ours", model, root, n, max(WORKERS)) for n in (cells, 10 * cells))
    print(f"peak memory of {cells:,} and {10 * cells:,} cells:")
    print(
        "\n".join(
            f"  {what}: {few[name] / 1e9:.2f} and {many[name] / 1e9:.2f} GB" for name, what in PEAKS.items()
        )
    )
    parts = generation_parts.measure(CFGen.load(model), root, max(2, min(8, cells // 2048)))
    print("\n".join(generation_parts.lines(parts)))
    wrong = [
        f"with {workers} {both['times_reference']:.1f} times the reference, not {TARGET:g}"
        for workers, both in found.items()
        if both["times_reference"] < TARGET
    ]
    wrong += grown(few, many)
    return {"rounds": found, "memory": [few, many], "parts": parts}, wrong


def grown(few: Measured, many: Measured) -> list[str]:
    """What ten times the cells take more memory of than they may."""
    growth = {what: many[name] / few[name] for name, what in PEAKS.items()}
    return [
        f"ten times the cells take {times:.2f} times the memory ({what})"
        for what, times in growth.items()
        if times > MEMORY_TARGET
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="a trained run, whose velocity is taken")
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--out", type=Path, help="JSON of all that was measured")
    options = parser.parse_args()
    options.root.mkdir(parents=True, exist_ok=True)
    found: Any
    if options.large:
        found, wrong = large(options.root, options.run), []
    else:
        found, wrong = small(options.root, options.run, options.cells, options.rounds)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))
    if wrong:
        raise SystemExit("missed: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
