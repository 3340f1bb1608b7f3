"""One peer, one seed, in a process of its own: train on the training cells, generate, write.

    python -m tests.benchmarks.peer_training --peer scvi --cells OUT/pbmc3k/cells --seed 0 --out FOLDER

FOLDER takes its name when it is whole: a file of generated cells for each modality and run.json, which says
how long training and generation took. The peers of scvi-tools need the environment of `make peer-models`.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from cfgen_scale.randomness import hashed
from loaders.aside import written_aside
from tests.benchmarks.peer_baseline import fit_independent
from tests.benchmarks.peer_cells import ATAC, LABEL, RNA, cells_file, told_classes, write_cells
from tests.benchmarks.peer_fit import Fitted
from tests.benchmarks.peer_variational import fit_multivi, fit_peakvi, fit_scvi

RUN = "run.json"
PACKAGES = ("scvi-tools", "torch", "lightning", "anndata", "numpy")


@dataclass(frozen=True)
class Peer:
    """A model beside ours.

    title       its name in the table
    modalities  what it can model; of a data set that lacks some it takes those there are
    fit         trains on cells by modality, with a seed
    apart       whether it needs the environment of scvi-tools
    joint       whether it is for data sets that have all its modalities only
    """

    title: str
    modalities: tuple[str, ...]
    fit: Callable[[Mapping[str, AnnData], int], Fitted]
    apart: bool = True
    joint: bool = False

    def models(self, modalities: Collection[str]) -> tuple[str, ...]:
        """Those of ``modalities`` that it models; none where the data set is not for it."""
        found = tuple(name for name in self.modalities if name in modalities)
        return () if self.joint and found != self.modalities else found


PEERS = {
    "independent": Peer("independent NB, Bernoulli", (RNA, ATAC), fit_independent, apart=False),
    "scvi": Peer("scVI", (RNA,), fit_scvi),
    "peakvi": Peer("PeakVI", (ATAC,), fit_peakvi),
    "multivi": Peer("MultiVI", (RNA, ATAC), fit_multivi, joint=True),
}


def train_and_generate(peer: Peer, cells: Path, out: Path, *, seed: int) -> None:
    """Train ``peer`` on the training cells of ``cells`` and write what it generates, and how, to ``out``."""
    there = [name for name in peer.modalities if cells_file(cells, "train", name).exists()]
    train = {name: anndata.read_h5ad(cells_file(cells, "train", name)) for name in there}
    first = next(iter(train.values()))
    of_training = first.obs[LABEL].astype(str).to_numpy()
    told = told_classes(of_training, np.random.default_rng(hashed(seed, "told classes")))
    began = time.monotonic()
    fitted = peer.fit(train, seed)
    trained = time.monotonic()
    made = fitted.draw(told, seed)
    generated = time.monotonic()
    with written_aside(out) as partial:
        for name, counts in made.items():
            index = pd.Index([f"generated-{i}" for i in range(len(told))], dtype=object)
            obs = pd.DataFrame({LABEL: pd.Categorical(told.astype(object))}, index=index)
            write_cells(partial / f"{name}.h5ad", AnnData(counts, obs=obs, var=train[name].var[[]]))
        run = {
            "peer": peer.title,
            "seed": seed,
            "training_cells": len(of_training),
            "generated_cells": len(told),
            "training_seconds": round(trained - began, 3),
            "generation_seconds": round(generated - trained, 3),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "versions": {package: _version(package) for package in PACKAGES},
        }
        (partial / RUN).write_text(json.dumps(run | fitted.described, indent=1))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", required=True, choices=list(PEERS))
    parser.add_argument("--cells", type=Path, required=True, help="folder that peer_cells.split_cells made")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    train_and_generate(PEERS[asked.peer], asked.cells, asked.out, seed=asked.seed)


if __name__ == "__main__":
    main()
