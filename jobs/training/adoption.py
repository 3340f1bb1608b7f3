"""A flow on the autoencoder of another run: several flows are tried, and one autoencoder is trained."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cfgen_scale.files import write_directory
from cfgen_scale.training.config import TrainConfig

from ..config import flatten
from .books import append_metrics
from .run_directory import RunDirectory, RunError

# What decides an autoencoder beside its cells; the rest of a configuration is the flow's.
DECIDING = ("autoencoder.", "model.autoencoder.", "seed", "precision", "granularity")


def require_same_autoencoder(other: Path, config: TrainConfig, data_digest: str) -> None:
    """Raise RunError unless the run ``other`` has a trained autoencoder that a run of ``config`` on cells of
    this arrangement would train too."""
    run = RunDirectory(other)
    if not (other / "run.json").exists() or not run.finished("autoencoder"):
        raise RunError(f"{other} is not a run with a trained autoencoder. Train it: `train autoencoder`.")
    document = run.document()
    if document["data_digest"] != data_digest:
        raise RunError(f"the autoencoder of {other} was trained on other cells ({document['data']}).")
    theirs, ours = _deciding(document["config"]), _deciding(asdict(config))
    for key in ours | theirs:
        if ours.get(key) != theirs.get(key):
            raise RunError(
                f"the autoencoder of {other} was trained with {key}={theirs.get(key)}, not {ours.get(key)}. "
                "Give the same configuration of the autoencoder, or train another."
            )


def adopt_autoencoder(run: RunDirectory, other: Path) -> None:
    """Copy the trained autoencoder of the run ``other``, its metrics and latents, unless ``run`` has one.

    Its weights come last: a copy that was stopped is made again.
    """
    if run.finished("autoencoder"):
        return
    theirs = RunDirectory(other)
    if theirs.latents.exists():
        shutil.rmtree(run.latents, ignore_errors=True)
        shutil.copytree(theirs.latents, run.latents)
    run.metrics.unlink(missing_ok=True)
    for line in theirs.metrics.read_text().splitlines() if theirs.metrics.exists() else []:
        row = json.loads(line)
        if row["stage"] == "autoencoder":
            append_metrics(run.metrics, row)
    result = run.result("autoencoder")
    shutil.rmtree(result.parent, ignore_errors=True)
    with write_directory(result.parent) as aside:
        shutil.copy(theirs.result("autoencoder"), aside / result.name)


def _deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    settings = flatten(json.loads(json.dumps(config)))
    return {key: value for key, value in settings.items() if key.startswith(DECIDING)}
