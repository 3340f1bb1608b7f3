"""An atlas of 300 cells and a training run of a second or two, for tests of whole jobs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix

CELL_TYPES = ("B", "NK", "T")
# Batches of 32 leave one cell for the end of an epoch: with two workers, one of them has none.
N_TRAIN, N_VALIDATION, N_TEST = 257, 25, 18
N_CELLS, N_GENES = N_TRAIN + N_VALIDATION + N_TEST, 60

SMALL_RUN = (
    "model.autoencoder.latent=4",
    "model.autoencoder.hidden=[16]",
    "model.velocity.width=16",
    "model.velocity.blocks=1",
    "model.velocity.embedding=8",
    "model.ode.steps=2",
    "threads=1",
    "autoencoder.cells=2000",
    "autoencoder.batch_cells=32",
    "autoencoder.warmup_cells=200",
    "autoencoder.learning_rate=0.01",
    "flow.cells=2000",
    "flow.batch_cells=48",
    "flow.warmup_cells=200",
    "flow.learning_rate=0.01",
)


def small_atlas() -> AnnData:
    """Poisson counts of three types from four donors; every tenth cell is unlabelled; ``split`` is given."""
    random = np.random.default_rng(0)
    profiles = random.gamma(0.6, 3.0, (len(CELL_TYPES), N_GENES)) + 0.1
    kinds, donors = random.integers(0, len(CELL_TYPES), N_CELLS), random.integers(0, 4, N_CELLS)
    counts = random.poisson(profiles[kinds] * random.uniform(0.5, 2.0, (N_CELLS, 1)))
    counts[:, 0] += 1
    names = np.array(CELL_TYPES, dtype=object)[kinds]
    names[::10] = ""
    split = np.repeat(["train", "validation", "test"], [N_TRAIN, N_VALIDATION, N_TEST])
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(names),
            "donor": pd.Categorical([f"d{d}" for d in donors]),
            "split": pd.Categorical(random.permutation(split)),
        },
        index=pd.Index([f"cell{i}" for i in range(N_CELLS)], dtype=object),
    )
    var = pd.DataFrame(index=pd.Index([f"gene{g}" for g in range(N_GENES)], dtype=object))
    return AnnData(X=csr_matrix(counts.astype(np.float32)), obs=obs, var=var)


def prepare_small_atlas(folder: Path) -> Path:
    """Write the atlas as ``folder/atlas.h5ad`` and prepare it in ``folder/prepared``."""
    from loaders.preparation.prepare import prepare

    small_atlas().write_h5ad(folder / "atlas.h5ad")
    prepare(
        folder / "atlas.h5ad",
        folder / "prepared",
        labels=["cell_type", "donor"],
        split_column="split",
        min_cells_per_gene=0,
        progress=False,
    )
    return folder / "prepared"


def train_small(stages: Any, *, data: Path, run: Path, overrides: Sequence[str] = (), **options: Any) -> Path:
    """`jobs.training.train.train` of SMALL_RUN, in this process unless ``workers`` says otherwise."""
    from jobs.training.train import train

    settings = {"workers": 0, **options}
    return train(stages, data=data, run=run, overrides=[*SMALL_RUN, *overrides], **settings)


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics, without what depends on the clock and without notes of restarts."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "note" not in row]
    timed = {"cells_per_second", "data_wait_share"}
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]
