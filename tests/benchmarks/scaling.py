"""Weak scaling of training from 1 to 2 workers on this machine: each has a batch and a core of its own.

    python -m tests.benchmarks.scaling [--genes 5000] [--workers 1 2] [--out scaling.json]

Every worker is a process of torchrun with one thread, so that two of them have twice the cores of one. Per
stage: cells/s without the first steps, and the efficiency, cells/s of W workers over W times those of one. On
a machine of two cores, workers share caches, the path to memory and the clock that one busy core may have for
itself: an upper limit from the same processes without any all-reduce (`alone`) says what of the loss is the
machine's and what is ours.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from anndata import AnnData

ROOT = Path(__file__).parents[2]
STAGES = ("autoencoder", "flow")
CELLS, BATCH, STEPS = 4096, 256, 30
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def prepare_cells(folder: Path, genes: int) -> Path:
    from jobs.planning.measure_machine import simulated
    from loaders.preparation.prepare import prepare

    AnnData(simulated(CELLS, genes)).write_h5ad(folder / "atlas.h5ad")
    prepare(folder / "atlas.h5ad", folder / "prepared", min_cells_per_gene=0, progress=False)
    return folder / "prepared"


def begin(prepared: Path, run: Path, workers: int) -> subprocess.Popen[str]:
    """Both stages with ``workers`` processes; the global batch grows with them."""
    batch = BATCH * workers
    cells = batch * STEPS
    settings = ["threads=1"]
    for stage in STAGES:
        settings += [f"{stage}.batch_cells={batch}", f"{stage}.cells={cells}", f"{stage}.validation_cells=0"]
        settings += [f"{stage}.checkpoint_every_cells={cells}", f"{stage}.patience=0"]
    store = f"sqlite:///{run.parent / f'{run.name}.db'}"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers), "-m", "--"]
    told = ["--data", str(prepared), "--run", str(run), "--mlflow-uri", store, "--workers", "0", *settings]
    return subprocess.Popen(
        [sys.executable, *launcher, "jobs.cli", "train", "all", *told],
        cwd=ROOT,
        env={**os.environ, **THREADS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def rates(training: subprocess.Popen[str], run: Path) -> dict[str, float]:
    """Cells/s of each stage over its last ten steps and more, once training has ended."""
    _, errors = training.communicate()
    if training.returncode:
        raise RuntimeError(errors[-2000:])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    # Rows are ten batches apart: the first holds the warm-up.
    return {
        stage: max(row["cells_per_second"] for row in [r for r in rows if r["stage"] == stage][1:])
        for stage in STAGES
    }


def measure(genes: int, workers: list[int]) -> dict[str, Any]:
    """Cells/s by number of workers, and of two runs of one worker each beside each other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = prepare_cells(folder, genes)
        together = {}
        for n in workers:
            together[n] = rates(begin(prepared, folder / f"by-{n}", n), folder / f"by-{n}")
        most = max(workers)
        runs = [folder / f"alone-{i}" for i in range(most)]
        training = [begin(prepared, run, 1) for run in runs]
        alone = [rates(process, run) for process, run in zip(training, runs, strict=True)]
    summed = {stage: sum(one[stage] for one in alone) for stage in STAGES}
    return {"genes": genes, "batch a worker": BATCH, "together": together, "alone": {most: summed}}


def table(measured: dict[str, Any]) -> str:
    lines = [f"{'stage':<14}{'workers':>8}{'cells/s':>10}{'efficiency':>12}{'without all-reduce':>20}"]
    for stage in STAGES:
        one = measured["together"][1][stage]
        for n, by_stage in measured["together"].items():
            alone = measured["alone"].get(n)
            limit = f"{alone[stage] / (n * one):.0%}" if alone and n > 1 else ""
            rate = by_stage[stage]
            lines.append(f"{stage:<14}{n:>8}{rate:>10,.0f}{rate / (n * one):>12.0%}{limit:>20}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--genes", type=int, default=5000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if 1 not in asked.workers:
        parser.error("efficiency is relative to one worker: --workers must hold 1")
    measured = measure(asked.genes, asked.workers)
    print(table(measured))
    if asked.out:
        asked.out.write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
