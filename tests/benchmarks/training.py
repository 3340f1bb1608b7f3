"""Our training beside the reference's recipe, in interleaved rounds: cells a second, memory, share of peak.

    CFGEN_SCALE_DATA=/path/to/data python -m tests.benchmarks.training --root /tmp/training [--rounds 3]

Both stages on PBMC3K, the autoencoder also on a simulated atlas of 20,000 genes, which we stream from disk
and of which the reference holds 4,096 dense cells in RAM; our memory on that atlas and on one of a tenth.
Ours in float32 as the reference is, the autoencoder also in bfloat16, which some processors multiply faster.
Every measurement is a process of its own (measure_training.py) with as many threads; figures are medians of
rounds. Data are made under --root once and kept. Ends with 1, naming it, where a target is missed.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks import measure_training
from tests.benchmarks.loader_stores import PACKED, build
from tests.benchmarks.loaders import LEAST_CELLS
from tests.benchmarks.reference_recipe import HIDDEN, LATENT

AUTOENCODER_TARGET, AUTOENCODER_AIM, FLOW_TARGET = 1.7, 2.5, 20.0
MEMORY_TARGET = 1.05  # of the small atlas' peak, and besides:
INDEX_BYTES = 16  # of each further cell
PBMC, ATLAS, SMALL_ATLAS = "pbmc3k", "atlas", "small atlas"
OURS, PLAIN, FUSED = "ours-autoencoder", "reference-autoencoder", "reference-autoencoder-fused"
OURS_FLOW, REENCODING, CACHED = "ours-flow", "reference-flow", "reference-flow-cached"
BATCH, SMALL_BATCH, LARGE_BATCH = 256, 64, 4_096


@dataclass(frozen=True)
class Entry:
    """One row of the table: who trains on what, and against which row its rate is compared."""

    contender: str
    data: str
    batch: int
    rival: "Entry | None" = None
    precision: str = "float32"

    @property
    def name(self) -> str:
        narrow = "" if self.precision == "float32" else f" {self.precision}"
        return f"{self.data:<12} {self.contender + narrow:<28} {self.batch:>5}"


PBMC_PLAIN, ATLAS_PLAIN = Entry(PLAIN, PBMC, BATCH), Entry(PLAIN, ATLAS, BATCH)
PBMC_OURS, ATLAS_OURS = Entry(OURS, PBMC, BATCH, PBMC_PLAIN), Entry(OURS, ATLAS, BATCH, ATLAS_PLAIN)
PBMC_NARROW = Entry(OURS, PBMC, BATCH, PBMC_PLAIN, "bfloat16")
ATLAS_NARROW = Entry(OURS, ATLAS, BATCH, ATLAS_PLAIN, "bfloat16")
SMALL_OURS = Entry(OURS, SMALL_ATLAS, BATCH)
FLOW_SHIPPED, FLOW_CACHED = Entry(REENCODING, PBMC, SMALL_BATCH), Entry(CACHED, PBMC, SMALL_BATCH)
FLOW_OURS = Entry(OURS_FLOW, PBMC, LARGE_BATCH, FLOW_SHIPPED)
ENTRIES = (
    PBMC_PLAIN,
    Entry(FUSED, PBMC, BATCH, PBMC_PLAIN),
    PBMC_OURS,
    PBMC_NARROW,
    ATLAS_PLAIN,
    Entry(FUSED, ATLAS, BATCH, ATLAS_PLAIN),
    ATLAS_OURS,
    ATLAS_NARROW,
    SMALL_OURS,
    FLOW_SHIPPED,
    FLOW_OURS,
    FLOW_CACHED,
    Entry(OURS_FLOW, PBMC, SMALL_BATCH, FLOW_CACHED),
)


def make_data(root: Path, cells: int) -> dict[str, Path]:
    """The prepared atlases, made if that has not been done."""
    from loaders import prepare

    source = Path(os.environ.get("CFGEN_SCALE_DATA", "")) / "pbmc3k_train.h5ad"
    if not source.is_file():
        raise SystemExit(
            "pbmc3k_train.h5ad is missing. Set CFGEN_SCALE_DATA to the folder with the PBMC3K split."
        )
    how = {"labels": ["cell_type"], "min_cells_per_gene": 0, "validation_fraction": 0.0, "test_fraction": 0.0}
    prepare(source, root / "pbmc3k", repack=True, progress=False, **how)
    found = {PBMC: root / "pbmc3k"}
    for name, n in ((ATLAS, cells), (SMALL_ATLAS, cells // 10)):
        folder = root / f"atlas-{n}"
        build(f"{PACKED}-none", folder, cells=n)
        found[name] = folder / f"{PACKED}-none"
    return found


def measure(arguments: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """One measurement in a new process."""
    command = [sys.executable, "-W", "ignore", "-m", measure_training.__name__, *arguments]
    command += ["--seconds", str(options.seconds), "--threads", str(options.threads)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads))
    ran = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{ran.stderr}")
    measured: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return measured


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of every figure over the rounds; what is no figure, of the first."""
    return {
        name: median(r[name] for r in rounds) if isinstance(value, int | float) else value
        for name, value in rounds[0].items()
    }


def gflop_per_cell(measured: dict[str, Any], *, sparse: bool) -> float:
    """Matrix products of one training step, per cell, in GFLOP; the first layer from the non-zeros or not."""
    genes = measured["genes"]
    inner = HIDDEN[0] * HIDDEN[1] + HIDDEN[1] * LATENT
    first = measured["non_zeros"] if sparse else genes
    # Forward and the weight's gradient of the first layer; with the input's gradient, of all others.
    return (4 * first * HIDDEN[0] + 6 * (2 * inner + genes * HIDDEN[0])) / 1e9


def table(results: dict[Entry, dict[str, Any]], peak: float) -> list[str]:
    """A line for each entry; ``peak`` in GFLOP/s. Busy: by the time that processors worked for a process,
    which is the fairer one beside other work."""
    columns = ("cells/s", "x rival", "x (busy)", "of peak", "waiting", "RSS GB", "anon GB")
    lines = [f"{'data':<12} {'contender':<28} {'batch':>5}" + "".join(f"{c:>10}" for c in columns)]
    for entry, found in results.items():
        rate = found["cells_per_second"]
        times = [
            f"{found[name] / results[entry.rival][name]:.2f}" if entry.rival else ""
            for name in ("cells_per_second", "cells_per_busy_second")
        ]
        share, waiting = "", ""
        # Bfloat16 products have another peak.
        if "autoencoder" in entry.contender and entry.precision == "float32":
            share = f"{rate * gflop_per_cell(found, sparse=entry.contender == OURS) / peak:.0%}"
        if "data_wait_share" in found:
            waiting = f"{found['data_wait_share']:.2%}"
        memory = (f"{found[name] / 1e9:.2f}" for name in ("peak_rss", "peak_anonymous"))
        cells = (f"{rate:,.0f}", *times, share, waiting, *memory)
        lines.append(entry.name + "".join(f"{cell:>10}" for cell in cells))
    return lines


def missed(results: dict[Entry, dict[str, Any]], cells: int) -> list[str]:
    """The targets that were not met."""
    wrong = []
    for entry, least in (
        (PBMC_OURS, AUTOENCODER_TARGET),
        (ATLAS_OURS, AUTOENCODER_TARGET),
        (FLOW_OURS, FLOW_TARGET),
    ):
        assert entry.rival is not None
        times = results[entry]["cells_per_second"] / results[entry.rival]["cells_per_second"]
        if times < least:
            wrong.append(f"{entry.contender} on {entry.data}: {times:.2f} times the reference, not {least}")
    large, small = (results[entry]["peak_anonymous"] for entry in (ATLAS_OURS, SMALL_OURS))
    if large > MEMORY_TARGET * small + INDEX_BYTES * (cells - cells // 10):
        wrong.append(f"ten times the cells take {large / 1e9:.2f} GB instead of {small / 1e9:.2f}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=100_000, help="of the simulated atlas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="JSON of all that was measured")
    options = parser.parse_args()
    if options.cells < 10 * LEAST_CELLS:
        parser.error(f"--cells must be at least {10 * LEAST_CELLS:,}, so that a tenth has every cell type.")
    data = make_data(options.root, options.cells)
    rounds: dict[Entry, list[dict[str, Any]]] = {entry: [] for entry in ENTRIES}
    peaks, loads = [], []
    for number in range(options.rounds):
        loads.append(os.getloadavg()[0])
        print(f"round {number + 1} of {options.rounds}, load {loads[-1]:.1f}", file=sys.stderr, flush=True)
        peaks.append(measure(["matrix-products", "--data", str(data[PBMC]), "--batch", "1"], options))
        for entry in ENTRIES:
            where = ["--data", str(data[entry.data]), "--batch", str(entry.batch)]
            how = ["--set", f"precision={entry.precision}"] if entry.contender.startswith("ours") else []
            rounds[entry].append(measure([entry.contender, *where, *how], options))
    results = {entry: medians(of_entry) for entry, of_entry in rounds.items()}
    peak = median(p["gflops"] for p in peaks)
    print(
        f"{measure_training.machine()}, {options.threads} threads; float32 matrix products {peak:.0f} GFLOP/s"
    )
    print(f"load averages at the start of rounds: {', '.join(f'{load:.1f}' for load in loads)} (idle is 0)")
    print("\n".join(table(results, peak)))
    print(f"The autoencoder aims at {AUTOENCODER_AIM} times the reference; {AUTOENCODER_TARGET} is required.")
    if options.out:
        document = {entry.name: of_entry for entry, of_entry in rounds.items()} | {
            "peaks": peaks,
            "loads": loads,
        }
        options.out.write_text(json.dumps(document, indent=1))
    if wrong := missed(results, options.cells):
        raise SystemExit("missed: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
