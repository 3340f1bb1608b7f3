"""PBMC3K for real, by the command line alone: prepare, train, generate, evaluate; the yardstick beside it.

    CFGEN_SCALE_DATA=/path/to/data python -m tests.benchmarks.pbmc3k [--out DIR] [--workers 2]

Needs pbmc3k_train.h5ad and pbmc3k_test.h5ad (2,110 / 528 cells x 8,573 genes) in $CFGEN_SCALE_DATA, and the
yardstick evaluate_h5ad.py in the folder above. Conditional sets draw their labels as they occur among the
training cells, library sizes from the fit on training cells (per type). Three generation seeds; the table
gives means.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SEEDS = (0, 1, 2)
CELLS, CELLS_UNCONDITIONAL = 4000, 1500
# METHOD 7: the reference implementation (theislab/CFGen) on this split, measured with the same yardstick.
REFERENCE = {
    ("neutral", "conditional"): 8.85,
    ("neutral", "conditional_cell_weighted"): 7.46,
    ("neutral", "unconditional"): 8.35,
    ("centred", "conditional"): 11.23,
}
YARDSTICK_NAMES = {"neutral": "neutral", "centred": "centred", "legacy": "paper_uncentred"}


def run(*arguments: str) -> float:
    """Run one command of the command line as a user would; returns its seconds."""
    command = [str(Path(sys.executable).parent / "cfgen-scale"), *arguments]
    print(f"\n$ {shlex.join(['cfgen-scale', *arguments])}", flush=True)
    began = time.monotonic()
    subprocess.run(command, check=True)
    return time.monotonic() - began


def generate(
    model: Path, out: Path, *, cells: int, seed: int, extra: tuple[str, ...] = ()
) -> tuple[str, str]:
    """One generated atlas as Zarr and as h5ad, the yardstick's format."""
    import anndata

    asked = ("--cells", str(cells), "--seed", str(seed), *extra)
    run("generate", "--model", str(model), "--out", str(out), *asked)
    copy = out.with_suffix(".h5ad")
    anndata.read_zarr(out).write_h5ad(copy)
    return str(out), str(copy)


def yardstick(script: Path, train: Path, test: Path, generated: str, unconditional: str, seed: int) -> dict:
    """The yardstick's document for one pair of generated sets."""
    command = [sys.executable, str(script), "--train", str(train), "--test", str(test)]
    command += ["--generated", generated, "--generated-uncond", unconditional]
    command += ["--label", "cell_type", "--seed", str(seed)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def yardstick_w2(document: dict, source: str, protocol: str, kind: str) -> float:
    block = document[source][YARDSTICK_NAMES[protocol]]
    if kind == "conditional_cell_weighted":
        return block["conditional"]["wd_cell_weighted"]
    return block[kind]["wd"]


def table(metrics: dict, documents: list[dict]) -> list[str]:
    """Ours and the yardstick's W2 side by side, with floors and the reference's figures."""
    lines = [
        f"{'protocol':<9}{'kind':<28}{'ours':>8}{'yardstick':>11}{'apart':>8}{'floor':>8}{'ratio':>7}{'reference':>11}"
    ]
    for protocol in YARDSTICK_NAMES:
        for kind in ("conditional", "conditional_cell_weighted", "unconditional"):
            figure = metrics["protocols"][protocol][kind]["w2"]
            theirs = float(np.mean([yardstick_w2(d, "generated", protocol, kind) for d in documents]))
            apart = abs(figure["value"] / theirs - 1)
            reference = REFERENCE.get((protocol, kind))
            lines.append(
                f"{protocol:<9}{kind:<28}{figure['value']:>8.3f}{theirs:>11.3f}{apart:>8.2%}{figure['floor']:>8.3f}"
                f"{figure['value'] / figure['floor']:>7.3f}{reference if reference else '':>11}"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/pbmc3k"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="training settings")
    options = parser.parse_args()
    data = Path(os.environ.get("CFGEN_SCALE_DATA") or "../shared/data")
    train, test, script = (
        data / "pbmc3k_train.h5ad",
        data / "pbmc3k_test.h5ad",
        data.parent / "evaluate_h5ad.py",
    )
    for path in (train, test, script):
        if not path.exists():
            raise SystemExit(f"{path} is missing. Set CFGEN_SCALE_DATA to the folder with the PBMC3K split.")

    out = options.out
    prepared, model = out / "prepared", out / "run"
    asked = ("--test", str(test), "--label", "cell_type", "--min-cells-per-gene", "0")
    run("prepare", str(train), *asked, "--out", str(prepared))
    settings = tuple(options.set)
    workers = ("--workers", str(options.workers))
    seconds = run("train", "all", *settings, "--data", str(prepared), "--run", str(model), *workers)
    conditional = [generate(model, out / f"cells-{s}.zarr", cells=CELLS, seed=s) for s in SEEDS]
    untold = ("--untold", "cell_type")
    unconditional = [
        generate(model, out / f"untold-{s}.zarr", cells=CELLS_UNCONDITIONAL, seed=s, extra=untold)
        for s in SEEDS
    ]
    files = ("--train", str(train), "--test", str(test), "--label", "cell_type")
    sets = ("--generated", *(z for z, _ in conditional), "--unconditional", *(z for z, _ in unconditional))
    run("evaluate", *files, *sets, "--out", str(out / "report"))
    metrics = json.loads((out / "report" / "metrics.json").read_text())
    documents = [yardstick(script, train, test, conditional[s][1], unconditional[s][1], s) for s in SEEDS]
    (out / "yardstick.json").write_text(json.dumps(documents, indent=1))
    print(
        f"\nW2, mean of {len(SEEDS)} generation seeds, on {platform.processor() or platform.machine()}, ",
        end="",
    )
    print(
        f"{os.cpu_count()} cores; both fits took {seconds:.0f} s with {options.workers} Ray workers, "
        "Ray included"
    )
    print("\n".join(table(metrics, documents)))
    auc = float(np.mean([d["generated"]["two_sample_auc"]["pca_logistic"] for d in documents]))
    zeros = float(np.mean([d["generated"]["genes"]["cell_zero_frac_ks"] for d in documents]))
    mmd = float(
        np.mean([d["generated"]["neutral"]["conditional"]["mmd_unbiased_cell_weighted"] for d in documents])
    )
    print(
        f"two-sample AUC {auc:.3f} (reference 0.88)   zeros per cell KS {zeros:.3f} (reference 0.13)   ",
        end="",
    )
    print(f"unbiased MMD², cell-weighted {mmd:.4f} (reference 0.068)")
    if wrong := missed(metrics, documents, seconds):
        raise SystemExit("missed: " + "; ".join(wrong))


def missed(metrics: dict, documents: list[dict], seconds: float) -> list[str]:
    """What this run was to show and did not: the reference beaten, agreement within 1 %, ten minutes."""
    wrong = [f"both fits took {seconds:.0f} s, not under 600"] if seconds >= 600 else []
    for protocol in YARDSTICK_NAMES:
        for kind in ("conditional", "conditional_cell_weighted", "unconditional"):
            ours = metrics["protocols"][protocol][kind]["w2"]["value"]
            theirs = float(np.mean([yardstick_w2(d, "generated", protocol, kind) for d in documents]))
            if abs(ours / theirs - 1) > 0.01:
                wrong.append(f"{protocol} {kind}: {ours:.3f} here, {theirs:.3f} by the yardstick")
            if ours >= REFERENCE.get((protocol, kind), np.inf):
                wrong.append(f"{protocol} {kind}: {ours:.3f} is not below the reference")
    return wrong


if __name__ == "__main__":
    main()
