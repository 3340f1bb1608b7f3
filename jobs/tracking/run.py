"""The MLflow run of one run directory: parameters, dataset, metrics, artefacts, status."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import batched
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict

from cfgen_scale.files import read_json, write_json

from ..config import flatten
from .registry import register_model
from .store import TrackingError, artifact_location, connect, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

LINK_FILE = "mlflow.json"
NOT_METRICS = {"stage", "cells_seen", "cells_total", "note"}
# MLflow's own limits.
METRICS_A_BATCH, PARAMS_A_BATCH, DIGEST_CHARACTERS = 1000, 100, 36

EndStatus = Literal["FINISHED", "FAILED", "KILLED"]


class TrainingData(TypedDict):
    """The prepared atlas as the run's dataset: its name, our content digest (hex) and where it lies."""

    name: str
    digest: str
    uri: str


@dataclass(frozen=True)
class RunLink:
    """Which MLflow run belongs to a run directory: the content of ``RUN/mlflow.json``."""

    tracking_uri: str
    experiment: str
    run_id: str


class Tracker:
    """One MLflow run. One process, the driver of training, holds it and logs.

    As a context manager it ends the run as FINISHED, as KILLED when interrupted, as FAILED on an error.
    """

    def __init__(self, client: "MlflowClient", link: RunLink) -> None:
        self.client, self.run_id, self.uri = client, link.run_id, link.tracking_uri
        self._last_steps: dict[str, int] | None = self._logged_steps()

    @staticmethod
    def start(
        run_dir: str | Path,
        *,
        experiment: str,
        config: Mapping[str, Any],
        dataset: TrainingData,
        uri: str | None = None,
    ) -> "Tracker":
        """Create the run, or take up the one that ``run_dir/mlflow.json`` names (killed, failed or finished).

        ``config``, a nested mapping, becomes the run's parameters, flattened with dots; MLflow fixes a value
        once logged. Raises TrackingError where the run is tracked elsewhere, is gone, or has another value.
        """
        run_dir, uri = Path(run_dir), tracking_uri(run_dir, uri)
        client = connect(uri)
        link = _read_link(run_dir, uri, experiment)
        if link is None:
            created = client.create_run(_experiment_id(client, experiment, uri), run_name=run_dir.name)
            link = RunLink(uri, experiment, created.info.run_id)
            write_json(run_dir / LINK_FILE, asdict(link))
        _require_alive(client, link, run_dir)
        tracker = Tracker(client, link)
        tracker._log_params(_texts(config))
        tracker._log_dataset(dataset)
        client.update_run(link.run_id, status="RUNNING")
        return tracker

    def log_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log rows of metrics.jsonl as ``STAGE/METRIC`` at step cells_seen.

        A step that a metric has already reached is left out, so that giving rows again, after an error, a
        restart or a resume that repeats steps, changes nothing. (MLflow itself would keep both.) A note
        becomes the tag ``note.STAGE.CELLS_SEEN``.
        """
        from mlflow.entities import Metric

        if self._last_steps is None:
            self._last_steps = self._logged_steps()
        now, metrics, steps = int(time.time() * 1000), [], dict(self._last_steps)
        # What arrives of these rows before an error is asked of MLflow when they are given again.
        self._last_steps = None
        for row in rows:
            step = int(row["cells_seen"])
            if "note" in row:
                self.client.set_tag(self.run_id, f"note.{row['stage']}.{step}", row["note"])
            for name in sorted(row.keys() - NOT_METRICS):
                key = f"{row['stage']}/{name}"
                if step > steps.get(key, -1):
                    steps[key] = step
                    metrics.append(Metric(key, float(row[name]), now, step))
        for batch in batched(metrics, METRICS_A_BATCH):
            self.client.log_batch(self.run_id, metrics=list(batch))
        self._last_steps = steps

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file, or the content of a directory, to the run's artefacts (into ``folder``)."""
        log = self.client.log_artifacts if Path(path).is_dir() else self.client.log_artifact
        log(self.run_id, str(path), folder)

    def register(self, model_dir: str | Path, name: str, alias: str | None = None) -> int:
        """Register a saved model as a version made by this run (see ``register_model``); its number."""
        return register_model(self.client, self.run_id, Path(model_dir), name=name, alias=alias)

    def end(self, status: EndStatus = "FINISHED") -> None:
        """Mark the run as ended. A run killed before this stays RUNNING until it is taken up again."""
        self.client.set_terminated(self.run_id, status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.end("FINISHED")
            return
        # Where MLflow itself is what failed the run stays RUNNING, and the first error is the one to see.
        with suppress(Exception):
            self.end("KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")

    def _logged_steps(self) -> dict[str, int]:
        keys = self.client.get_run(self.run_id).data.metrics
        return {key: max(m.step for m in self.client.get_metric_history(self.run_id, key)) for key in keys}

    def _log_params(self, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        logged = self.client.get_run(self.run_id).data.params
        for name, value in params.items():
            if logged.get(name, value) != value:
                raise TrackingError(
                    f"parameter {name} of this run is {logged[name]} in MLflow (run {self.run_id}) and now "
                    f"{value}. A run keeps its parameters: restore the value, or train under another --run."
                )
        new = [Param(name, value) for name, value in params.items() if name not in logged]
        for batch in batched(new, PARAMS_A_BATCH):
            self.client.log_batch(self.run_id, params=list(batch))

    def _log_dataset(self, data: TrainingData) -> None:
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.data.sources import LocalArtifactDatasetSource
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = LocalArtifactDatasetSource(data["uri"])
        described = MetaDataset(
            source, name=data["name"], digest=data["digest"][:DIGEST_CHARACTERS]
        ).to_dict()
        tags = [InputTag("mlflow.data.context", "training")]
        self.client.log_inputs(self.run_id, [DatasetInput(Dataset.from_dictionary(described), tags)])
        # The entry above holds 36 characters of a digest at most; the tag holds all of it.
        self.client.set_tag(self.run_id, "cfgen_scale.data_digest", data["digest"])


def _texts(config: Mapping[str, Any]) -> dict[str, str]:
    """Flattened with dots; text stays, other values become JSON."""
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in flatten(config).items()}


def _read_link(run_dir: Path, uri: str, experiment: str) -> RunLink | None:
    if not (run_dir / LINK_FILE).exists():
        return None
    link = RunLink(**read_json(run_dir / LINK_FILE))
    if (link.tracking_uri, link.experiment) != (uri, experiment):
        raise TrackingError(
            f"{run_dir} is tracked at {link.tracking_uri} in experiment {link.experiment!r}, not at {uri} in "
            f"{experiment!r}. Give those, or delete {run_dir / LINK_FILE} to begin another MLflow run."
        )
    return link


def _require_alive(client: "MlflowClient", link: RunLink, run_dir: Path) -> None:
    from mlflow.exceptions import MlflowException

    remedy = f"Restore it, or delete {run_dir / LINK_FILE} to begin another MLflow run."
    try:
        stage = client.get_run(link.run_id).info.lifecycle_stage
    except MlflowException as error:
        raise TrackingError(f"MLflow run {link.run_id} is not in {link.tracking_uri}. {remedy}") from error
    if stage != "active":
        raise TrackingError(f"MLflow run {link.run_id} was deleted in {link.tracking_uri}. {remedy}")


def _experiment_id(client: "MlflowClient", name: str, uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifact_location=artifact_location(uri)))
    if found.lifecycle_stage != "active":
        raise TrackingError(f"experiment {name!r} was deleted in {uri}. Restore it, or choose another name.")
    return str(found.experiment_id)
