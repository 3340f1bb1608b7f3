"""One trial of the study in a process of its own: train once, then draw and score for each of its rows.

Prints one line of JSON for each row. The same trial again takes up the training where it was.
"""

import argparse
import fcntl
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix

from cfgen_scale.evaluation import EvaluationSettings, evaluate
from cfgen_scale.model import CFGen
from jobs.evaluation.model_draws import ModelDraws
from jobs.training.adoption import DECIDING
from jobs.training.train import train
from loaders.preparation.prepare import prepare
from loaders.preparation.prepared import Prepared
from tests.benchmarks.peer_cells import cells_of
from tests.benchmarks.study_rows import DATA_SETS, DataSet, Row, digest_of, row_from_json

# A study is decided on more validation cells than a training needs; final models learn from half of those.
VALIDATION_FRACTION = {"validation": 0.2, "test": 0.1}
TEST_FRACTION = 0.2
# Rows are compared with one another on equal terms, and quickly; final figures are those of `evaluate`.
SETTINGS = {
    "validation": EvaluationSettings(repeats=2, max_cells=1000, max_cells_auc=2000),
    "test": EvaluationSettings(),
}
LARGE_CLASS = 50
# Classes of two cells decide means over classes: as many are compared, and drawn anew at every repeat.
DRAWN_PER_CELL = 5
TARGETS = {
    "conditional": ("neutral", "conditional", "w2", "ratio"),
    "centred": ("centred", "conditional", "w2", "ratio"),
    "weighted": ("neutral", "conditional_cell_weighted", "w2", "ratio"),
    "unconditional": ("neutral", "unconditional", "w2", "ratio"),
    "mmd_unbiased": ("neutral", "conditional_cell_weighted", "mmd2_unbiased", "value"),
}


def prepared_cells(data: DataSet, split: str, out: Path, folder: Path) -> Path:
    """The data set prepared for scoring on ``split``; made once."""
    where = out / "prepared" / f"{data.name}-{split}"
    prepare(
        folder / data.cells,
        where,
        test=None if data.test is None else folder / data.test,
        labels=[data.label],
        min_cells_per_gene=0,
        validation_fraction=VALIDATION_FRACTION[split],
        test_fraction=0.0 if data.test else TEST_FRACTION,
        progress=False,
    )
    return where


def trained_model(prepared: Path, run: Path, overrides: list[str], autoencoder: Path) -> Path:
    """Train both stages in this process unless that is done; of the run the model and its metrics stay.

    Runs that differ in their flow alone share the ``autoencoder``, a run of its own: the first one trains it,
    those beside it wait.
    """
    if not (run / "model").exists():
        autoencoder.parent.mkdir(parents=True, exist_ok=True)
        with open(autoencoder.with_suffix(".lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            own = [setting for setting in overrides if setting.startswith(DECIDING)]
            store = f"sqlite:///{autoencoder.with_suffix('.db')}"
            how: dict[str, Any] = {"data": prepared, "workers": 0, "mlflow_uri": store}
            train("autoencoder", run=autoencoder, overrides=[*own, "threads=1"], **how)
        how["mlflow_uri"] = f"sqlite:///{run.parent / 'mlflow.db'}"
        train("all", run=run, autoencoder_of=autoencoder, overrides=overrides, **how)
    for part in (run / "autoencoder", run / "flow", run / "latents"):
        shutil.rmtree(part, ignore_errors=True)
    return run / "model"


def drawn(model: CFGen, label: str, classes: list[str], row: Row, seed: int) -> tuple[AnnData, AnnData]:
    """DRAWN_PER_CELL cells for each of ``classes``, told it, and as many told nothing."""
    classes = classes * DRAWN_PER_CELL
    ode = model.config.ode
    if row.steps is not None:
        ode = replace(ode, steps=row.steps)
    if row.interval is not None:
        ode = replace(ode, guide_from=row.interval[0], guide_to=row.interval[1])
    model.config = replace(model.config, ode=ode)
    draw = ModelDraws(model, [label])
    told = draw([[name] for name in classes], (row.guidance,), seed)
    free = ModelDraws(model, [])([[]] * len(classes), (), seed + 1000)
    var = pd.DataFrame(index=pd.Index(draw.modality.features, dtype=object))
    names = pd.Index([f"generated-{i}" for i in range(len(classes))], dtype=object)
    obs = pd.DataFrame({label: pd.Categorical(classes)}, index=names)
    return AnnData(told, obs=obs, var=var), AnnData(free, obs=obs[[]], var=var)


def figures(metrics: dict[str, Any]) -> dict[str, float | None]:
    """The columns of the study out of the metrics of one seed."""
    found: dict[str, float | None] = {}
    for name, (protocol, kind, distance, key) in TARGETS.items():
        distances = metrics["protocols"][protocol][kind][distance]
        found[name] = distances[key]
        if key == "ratio":
            found |= {f"{name}_value": distances["value"], f"{name}_floor": distances["floor"]}
    large = [name for name, n in metrics["classes"]["test_cells"].items() if n >= LARGE_CLASS]
    ratios = [metrics["variance_ratio"]["per_class"][name]["value"] for name in large]
    return found | {
        "auc": metrics["two_sample_auc"]["logistic"]["value"],
        "zeros_ks": metrics["moments"]["cell_zero_share_ks"]["value"],
        "variance": metrics["variance_ratio"]["cell_weighted"]["value"],
        "variance_lowest": min(ratios, default=None),
        "variance_highest": max(ratios, default=None),
        "precision": metrics["manifolds"]["precision"]["ratio"],
        "recall": metrics["manifolds"]["recall"]["ratio"],
        "markers": metrics["markers"]["cell_weighted"]["value"],
    }


def latent_spread(model: CFGen, some: AnnData, others: AnnData, label: str) -> float | None:
    """Variance of latents within the large classes, of some cells over that of others: 1 where the encoder
    treats both alike, more where it knows ``some`` by heart. None without a large class."""
    latents = [model.encode([csr_matrix(cells.X, dtype=np.float32)]).numpy() for cells in (some, others)]
    classes = [cells.obs[label].astype(str).to_numpy() for cells in (some, others)]
    large = [name for name, n in Counter(classes[1]).items() if n >= LARGE_CLASS and name != "nan"]
    within = [
        sum(z[of_class == name].var(0, ddof=1).sum() for name in large)
        for z, of_class in zip(latents, classes, strict=True)
    ]
    return float(within[0] / within[1]) if large else None


def validation_losses(run: Path) -> dict[str, float]:
    """The lowest validation loss of each stage."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses: dict[str, list[float]] = {}
    for row in rows:
        if "validation_loss" in row:
            losses.setdefault(row["stage"], []).append(row["validation_loss"])
    return {f"{stage}_validation": min(values) for stage, values in losses.items()}


def trial(
    data: DataSet, rows: list[Row], *, seed: int, split: str, common: tuple[str, ...], out: Path, folder: Path
) -> Iterator[dict[str, Any]]:
    """A result for each of ``rows``, which share their training."""
    place = prepared_cells(data, split, out, folder)
    prepared = Prepared.open(place)
    settings = [*common, *rows[0].for_label(data.label)]
    training = rows[0].training().digest(common)
    autoencoder = digest_of([setting for setting in settings if setting.startswith(DECIDING)])
    run = out / "runs" / f"{data.name}-{split}-{training}-{seed}" / "run"
    run.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    overrides = ["threads=1", *settings, f"seed={seed}"]
    shared = out / "autoencoders" / f"{data.name}-{split}-{autoencoder}-{seed}"
    model_path = trained_model(place, run, overrides, shared)
    trained = time.monotonic() - began
    learned, held_out = prepared.to_anndata("train"), prepared.to_anndata(split)
    # Final figures are those of the whole training set, as others measure them: validation cells are of it.
    real = (
        learned if split == "validation" else cells_of(prepared, "train", prepared.schema.modalities[0].name)
    )
    told = held_out.obs[data.label].dropna().astype(str)
    spread = latent_spread(CFGen.load(model_path), learned, held_out, data.label)
    for row in rows:
        made, free = drawn(CFGen.load(model_path), data.label, list(told), row, seed)
        metrics = evaluate(
            real,
            held_out,
            [made],
            label=data.label,
            unconditional=[free],
            seeds=(seed,),
            settings=SETTINGS[split],
        )
        yield {
            "dataset": data.name,
            "row": row.name,
            "digest": row.digest(common),
            "seed": seed,
            "split": split,
            "figures": figures(metrics) | {"latent_spread": spread} | validation_losses(run),
            "cells": {"train": learned.n_obs, "held_out": held_out.n_obs},
            "training_seconds": round(trained, 1),
            "settings": [*common, *row.for_label(data.label)],
            "guidance": row.guidance,
            "steps": row.steps,
            "interval": row.interval,
        }


def command_of(
    data: str, rows: list[Row], *, seed: int, split: str, common: tuple[str, ...], out: Path
) -> list[str]:
    """The arguments that make this trial of them."""
    line = ["--dataset", data, "--seed", str(seed), "--split", split, "--out", str(out)]
    line += [word for row in rows for word in ("--row", json.dumps(asdict(row)))]
    return line + [word for setting in common for word in ("--set", setting)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, choices=list(DATA_SETS))
    parser.add_argument("--row", action="append", required=True, type=row_from_json)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--split", choices=list(VALIDATION_FRACTION), required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    for result in trial(
        DATA_SETS[asked.dataset],
        asked.row,
        seed=asked.seed,
        split=asked.split,
        common=tuple(asked.set),
        out=asked.out,
        folder=Path(os.environ["CFGEN_SCALE_DATA"]),
    ):
        print(json.dumps(result, default=float), flush=True)


if __name__ == "__main__":
    main()
