r"""Peers on the same split: scVI, for two modalities MultiVI and PeakVI, and features drawn independently.

    CFGEN_SCALE_DATA=/path/to/data python -m tests.benchmarks.peer_models --out runs/peer-models \
        --peer-python runs/peer-models-venv/bin/python [--datasets pbmc3k snareseq] \
        [--peers independent scvi] [--ours "this system=runs/ours/{dataset}-{seed}.zarr"]

`make peer-models` makes the environment of scvi-tools and runs all. Each peer is trained anew with each of
three seeds on all cells but the test cells (a part of which it holds out for itself), and generates cells
whose classes occur as among those. What is there is not done again: the same command goes on where it was
stopped. OUT/DATASET/prepared is the split for `cfgen-scale train`, OUT/DATASET/PEER-SEED what a peer
generated.

Peers are at the defaults of their package, early stopping included; nothing of them, or of anything else
here, is chosen on test cells. What is drawn, and why: peer_variational.py, peer_baseline.py. `--ours` adds
rows for atlases of this system, or of any other: .h5ad, .zarr or of several modalities .h5mu or MuData-Zarr,
with raw counts and cell_type in obs; {dataset}, {seed} and {modality} (rna, atac) stand for each. A path
without {seed} is one atlas, scored with each seed; one that is not there is left out, which is said.

All rows are scored alike by `evaluate` (METHOD 7): W2 of the neutral protocol (mean over classes, over cells,
and of all cells whatever their class), W2 of the centred one; unbiased MMD2 (neutral, over cells); AUC of
telling generated from real; KS of zeros per cell; variance within classes over real, with its range over
classes with 50 test cells; correlation of marker means. Peaks are compared after TF-IDF, open or not.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.benchmarks.peer_cells import DATA, PeerData, split_cells
from tests.benchmarks.peer_scores import scores
from tests.benchmarks.peer_table import Line, caption, markdown
from tests.benchmarks.peer_training import PEERS, RUN

ROOT = Path(__file__).parents[2]
SEEDS = (0, 1, 2)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
DATASET, SEED, MODALITY = "{dataset}", "{seed}", "{modality}"


def made_by(name: str, cells: Path, out: Path, seed: int, asked: argparse.Namespace) -> Path:
    """The folder with what a peer generates with ``seed``; trained unless it is there."""
    folder = out / f"{name}-{seed}"
    if (folder / RUN).exists():
        return folder
    python = asked.peer_python.absolute() if PEERS[name].apart else sys.executable
    command = [str(python), "-m", "tests.benchmarks.peer_training", "--peer", name, "--seed", str(seed)]
    command += ["--cells", str(cells.absolute()), "--out", str(folder.absolute())]
    threads = dict.fromkeys(THREADS, str(asked.threads))
    print(f"{out.name}: {PEERS[name].title}, seed {seed}", file=sys.stderr, flush=True)
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | threads)
    return folder


def given(path: str, dataset: str, modality: str, seeds: Sequence[int]) -> list[Path]:
    """Atlases that ``path`` stands for; none, which is said, where one is not there."""
    named = path.replace(DATASET, dataset).replace(MODALITY, modality)
    found = [Path(named.replace(SEED, str(seed))) for seed in (seeds if SEED in path else seeds[:1])]
    missing = [atlas for atlas in found if not atlas.exists()]
    if missing:
        print(f"{dataset}, {modality}: {missing[0]} is not there, so no row for it", file=sys.stderr)
        return []
    return found


def lines(data: PeerData, cells: Path, out: Path, asked: argparse.Namespace) -> Iterator[tuple[str, Line]]:
    """A line for each modality of each model, as they are done."""
    for name in asked.peers:
        modelled = PEERS[name].models(data.modalities)
        if not modelled:
            continue
        folders = [made_by(name, cells, out, seed, asked) for seed in asked.seeds]
        runs = [json.loads((folder / RUN).read_text()) for folder in folders]
        for modality in modelled:
            sets = [folder / f"{modality}.h5ad" for folder in folders]
            kept = out / f"{name}-{modality}.json"
            yield modality, Line(PEERS[name].title, scores(cells, modality, sets, asked.seeds, kept), runs)
    for title, path in asked.ours:
        for modality in data.modalities:
            if sets := given(path, data.name, modality, asked.seeds):
                kept = out / f"given-{title.replace(os.sep, '-')}-{modality}.json"
                yield modality, Line(title, scores(cells, modality, sets, asked.seeds, kept))


def tables(data: PeerData, folder: Path, asked: argparse.Namespace) -> str:
    """All of one data set, as Markdown."""
    out = asked.out / data.name
    out.mkdir(parents=True, exist_ok=True)
    cells = split_cells(data, folder, out)
    done: dict[str, list[Line]] = {modality: [] for modality in data.modalities}
    for modality, line in lines(data, cells, out, asked):
        done[modality].append(line)
    shown = [
        f"{caption(data.name, modality, rows[0].metrics)}\n\n{markdown(rows)}\n"
        for modality, rows in done.items()
        if rows
    ]
    return "\n".join(shown)


def titled_path(text: str) -> tuple[str, str]:
    title, equals, path = text.partition("=")
    if not (title and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r}: it is NAME=PATH.")
    return title, path


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    option = parser.add_argument
    option("--datasets", nargs="+", choices=list(DATA), default=list(DATA))
    option("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    option("--seeds", nargs="+", type=int, default=list(SEEDS))
    option("--out", type=Path, default=Path("runs/peer-models"))
    option("--peer-python", type=Path, default=Path(sys.executable), help="that has scvi-tools")
    option("--threads", type=int, default=os.cpu_count(), help="of a training (all)")
    option("--ours", nargs="+", type=titled_path, default=[], metavar="NAME=PATH", help="atlases to add")
    return parser


def require_scvi(asked: argparse.Namespace) -> None:
    """Raise SystemExit where a peer needs scvi-tools and --peer-python lacks it."""
    if not any(PEERS[name].apart for name in asked.peers):
        return
    looked = [str(asked.peer_python), "-c", "from importlib.metadata import version; version('scvi-tools')"]
    if not asked.peer_python.exists() or subprocess.run(looked, capture_output=True).returncode:
        raise SystemExit(
            f"{asked.peer_python} has no scvi-tools: `make peer-models` makes an environment that has, for "
            "--peer-python; or ask for --peers independent."
        )


def main() -> None:
    asked = options().parse_args()
    require_scvi(asked)
    folder = Path(os.environ.get("CFGEN_SCALE_DATA") or "../shared/data")
    shown = []
    for name in asked.datasets:
        shown.append(tables(DATA[name], folder, asked))
        print(shown[-1], flush=True)
    (asked.out / "table.md").write_text("\n".join(shown))


if __name__ == "__main__":
    main()
