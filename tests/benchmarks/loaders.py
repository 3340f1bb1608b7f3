"""All loaders on one simulated atlas, in interleaved rounds: cells a second, waiting, memory, bytes; medians.

    python -m tests.benchmarks.loaders --root /tmp/atlas10k --cells 10000 --rounds 1          (small: minutes)
    python -m tests.benchmarks.loaders --root /tmp/atlas200k --cells 200000 --cores 1 2       (the figures)

Needs the `bench` extra (annbatch, zarrs, tiledbsoma-ml). Stores are built under --root once and kept; packed
ones with each `--codec` that `prepare` takes. Every loader runs in a process of its own, bound to as many
cores as are asked for, once a round; its first batch is compared with anndata's own read of these cells.
What was measured beside the tables is in --out.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import zarr

from tests.benchmarks import measure_loader
from tests.benchmarks.loader_peers import LIMIT, Loader, loaders
from tests.benchmarks.loader_stores import ATLAS, build, needs

PEERS = ("annbatch", "zarrs", "tiledbsoma_ml")
VERSIONS = ("annbatch", "zarrs", "tiledbsoma-ml", "tiledbsoma", "zarr", "anndata", "torch", "numpy", "numba")
LEAST_CELLS = 10_000
type Rounds = dict[str, dict[int, list[Any]]]  # by loader and cores: what each round measured
LEGEND = """\
cells/s    of an epoch, from opening the store on, batches of 4,096, median of rounds
x rival    against annbatch, or tiledbsoma-ml for SOMA, on as many cores: the median of the ratios of rounds,
           since what else a shared machine does changes from one round to the next
steady     cells/s behind the first burst of batches; the limit's rates are all steady ones
cold       the files of the store dropped from the page cache first
256        batches of 256 from the page cache
first s    from opening the store to the first batch
peak       of the process with its libraries; anon: of that, not mapped files"""


def machine() -> dict[str, Any]:
    """What the figures are taken on, and how busy it is (load averages; an idle machine is near 0)."""
    cpu = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    cores = len(os.sched_getaffinity(0))
    return {"cpu": cpu[0], "cores": cores, "memory": memory, "load": os.getloadavg(), "versions": versions}


def run(
    loader: Loader, options: argparse.Namespace, *, cores: int, setting: int, quick: bool
) -> dict[str, Any]:
    """One loader measured in a new process that has ``cores`` cores and as many threads of each kind."""
    command = [sys.executable, "-W", "ignore", "-m", measure_loader.__name__, "--root", str(options.root)]
    command += ["--loader", loader.name, "--cores", str(cores), "--setting", str(setting)]
    command += ["--seconds", str(options.seconds), *(f"--codec={codec}" for codec in options.codec)]
    command += ["--quick"] if quick else []
    threads = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS")
    environment = os.environ | dict.fromkeys(threads, str(cores))
    ours = sorted(os.sched_getaffinity(0))[:cores]
    done = subprocess.run(
        ["taskset", "--cpu-list", ",".join(map(str, ours)), *command],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{loader.name} failed:\n{done.stderr}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def fastest_setting(loader: Loader, options: argparse.Namespace) -> int:
    """Index of the loader's settings that gave the most cells a second on all cores, median of rounds."""
    known = dict(setting.rsplit("=", 1) for setting in options.setting)
    if len(loader.settings) == 1 or loader.name in known:
        return int(known.get(loader.name, 0))
    rates: list[list[float]] = [[] for _ in loader.settings]
    for _ in range(options.rounds):
        for setting, of_setting in enumerate(rates):
            found = run(loader, options, cores=max(options.cores), setting=setting, quick=True)
            of_setting.append(found["warm"]["cells_per_second"])
    typical = [median(of_setting) for of_setting in rates]
    for settings, rate in zip(loader.settings, typical, strict=True):
        print(f"  {loader.name} {settings}: {rate:,.0f} cells/s", flush=True)
    return typical.index(max(typical))


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Of every figure of every measurement, the median over the rounds; None where one has none."""
    return {
        kind: {
            name: None if (values := [r[kind][name] for r in rounds]).count(None) else median(values)
            for name in rounds[0][kind]
        }
        for kind in rounds[0]
    }


def stores_table(stores: dict[str, dict[str, Any]], nnz: int) -> list[str]:
    """What each store takes, and what building it took."""
    lines = [
        "| store | bytes/non-zero | files | built in s | cells/s | peak anon GB |",
        "|---|---|---|---|---|---|",
    ]
    for name, built in stores.items():
        rate, anonymous = built["cells"] / built["seconds"], built["peak_anonymous"] / 1e9
        figures = f"{built['bytes'] / nnz:.2f} | {built['files']} | {built['seconds']:.1f} | {rate:,.0f}"
        lines.append(f"| {name} | {figures} | {anonymous:.2f} |")
    return lines


def ratio(loader: Loader, kind: str, cores: int, rounds: Rounds) -> float | None:
    """How many times the rate of its rival a loader had, median over rounds; None where there is no rival."""
    if cores not in rounds.get(loader.rival, {}):
        return None
    both = zip(rounds[loader.name][cores], rounds[loader.rival][cores], strict=True)
    return median(ours[kind][rate_of(loader)] / theirs[kind]["cells_per_second"] for ours, theirs in both)


def rate_of(loader: Loader) -> str:
    return "steady_cells_per_second" if loader.name == LIMIT else "cells_per_second"


def loaders_table(chosen: Iterable[Loader], results: dict[str, dict[int, Any]], rounds: Rounds) -> list[str]:
    columns = "loader | form | cores | cells/s | x rival | steady | cold | x rival | 256 | x rival"
    columns += " | first s | cold s | peak GB | anon GB"
    lines = [f"| {columns} |", "|" + "---|" * columns.count("|") + "---|"]
    for loader in chosen:
        for cores, found in results[loader.name].items():
            cells = [loader.name, loader.form, str(cores)]
            for kind in ("warm", "cold", "small"):
                times = ratio(loader, kind, cores, rounds)
                cells += [_number(found[kind][rate_of(loader)]), "" if times is None else f"{times:.2f}"]
                cells += [_number(found[kind]["steady_cells_per_second"])] if kind == "warm" else []
            cells += [f"{found[kind]['first_batch_seconds']:.2f}" for kind in ("warm", "cold")]
            peaks = (max(found[k][name] for k in found) for name in ("peak_rss", "peak_anonymous"))
            cells += [f"{peak / 1e9:.2f}" for peak in peaks]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="where the stores are kept")
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, nargs="+", default=[len(os.sched_getaffinity(0))])
    parser.add_argument("--codec", nargs="*", default=["none", "zstd"], help="of packed stores")
    parser.add_argument("--only", nargs="+", default=[""], help="loaders whose name contains one of these")
    parser.add_argument(
        "--setting", nargs="*", default=[], metavar="LOADER=N", help="take its setting N, tried before"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="most that one epoch is followed")
    parser.add_argument("--out", type=Path, help="JSON with everything (default: ROOT/loaders-results.json)")
    options = parser.parse_args(arguments)
    if options.cells < LEAST_CELLS:
        parser.error(f"--cells must be {LEAST_CELLS:,} or more: the batches have 4,096.")
    missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"{', '.join(missing)} not installed: run `make bench-peers`.")
    return options


def main() -> None:
    options = options_of()
    before = machine()
    chosen = [
        loader
        for name, loader in loaders(tuple(options.codec)).items()
        if any(part in name for part in options.only)
    ]
    if not chosen:
        raise SystemExit(f"no loader has {' or '.join(options.only)} in its name.")
    names = dict.fromkeys(n for loader in chosen for n in (ATLAS, *needs(loader.store), loader.store))
    stores = {name: build(name, options.root.absolute(), cells=options.cells) for name in names}
    settings = {loader.name: fastest_setting(loader, options) for loader in chosen}
    rounds: Rounds = {x.name: {cores: [] for cores in options.cores} for x in chosen}
    for number in range(options.rounds):
        for cores in options.cores:
            for loader in chosen:
                found = run(loader, options, cores=cores, setting=settings[loader.name], quick=False)
                rounds[loader.name][cores].append(found)
                rate = found["warm"]["cells_per_second"]
                print(f"  round {number + 1}, {cores} cores, {loader.name}: {rate:,.0f} cells/s", flush=True)
        # After every round: what was measured is not lost with a run that is stopped.
        report = summary(options, before, chosen, stores, settings, rounds)
    print(report)


def summary(
    options: argparse.Namespace,
    before: dict[str, Any],
    chosen: list[Loader],
    stores: dict[str, dict[str, Any]],
    settings: dict[str, int],
    rounds: Rounds,
) -> str:
    """The tables of the rounds there are; everything that was measured goes to --out."""
    results = {name: {cores: medians(r) for cores, r in by.items()} for name, by in rounds.items()}
    nnz = int(zarr.open_group(options.root / ATLAS, mode="r")["X/data"].shape[0])
    document = {
        "machine": before,
        "cells": options.cells,
        "non_zeros": nnz,
        "settings": {x.name: x.settings[settings[x.name]] for x in chosen},
        "stores": stores,
        "medians": results,
        "rounds": rounds,
    }
    out = options.out or options.root / "loaders-results.json"
    out.write_text(json.dumps(document, indent=1))
    head = f"\n{options.cells:,} cells, {nnz:,} non-zeros; {before}\n{document['settings']}\n"
    tables = [*stores_table(stores, nnz), "", *loaders_table(chosen, results, rounds), "", LEGEND]
    return "\n".join([head, *tables, "", f"all: {out}"])


if __name__ == "__main__":
    main()
