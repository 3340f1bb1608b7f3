"""Where MLflow keeps things, and a client for it that is quiet and keeps no global state.

Everything goes through ``MlflowClient`` with an explicit address: no active run, no global tracking URI.
MLflow takes two seconds to import, hence the imports inside functions.
"""

import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

ADDRESS_VARIABLE = "MLFLOW_TRACKING_URI"


class TrackingError(ValueError):
    """MLflow's store does not fit what is asked of it; the message names what differs and the remedy."""


def tracking_uri(run_dir: str | Path, uri: str | None = None) -> str:
    """Where a run is tracked: ``uri``, else $MLFLOW_TRACKING_URI, else ``mlflow.db`` beside its directory."""
    return uri or os.environ.get(ADDRESS_VARIABLE) or database(Path(run_dir).resolve().parent)


def registry_uri(uri: str | None = None) -> str:
    """Where to look a model up by name: ``uri``, else $MLFLOW_TRACKING_URI, else a database found nearby.

    Nearby is ``mlflow.db`` in the working directory or in its ``runs``. Raises FileNotFoundError otherwise.
    """
    if named := uri or os.environ.get(ADDRESS_VARIABLE):
        return named
    folders = [Path.cwd(), Path.cwd() / "runs"]
    for folder in folders:
        if (folder / "mlflow.db").is_file():
            return database(folder)
    raise FileNotFoundError(
        f"no MLflow store: there is no mlflow.db in {folders[0]} or {folders[1]}. Training keeps it beside "
        f"the run directory. Name it with --mlflow-uri sqlite:///PATH/mlflow.db or ${ADDRESS_VARIABLE}."
    )


def database(folder: Path) -> str:
    """The address of our sqlite database in ``folder``."""
    return f"sqlite:///{folder / 'mlflow.db'}"


def artifact_location(uri: str) -> str | None:
    """Where a new experiment keeps its files: beside a local database; a server decides for itself (None)."""
    if not uri.startswith("sqlite:///"):
        return None
    return str(Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlflow-artifacts")


def connect(uri: str) -> "MlflowClient":
    """A client of tracking store and registry at ``uri``, without telemetry, banners or migration logs.

    A sqlite database that does not exist yet is created (about 5 s).
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with warnings.catch_warnings():
        # MLflow uses deprecated parts of SQLAlchemy, which says so when the first store is opened.
        warnings.simplefilter("ignore", DeprecationWarning)
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
        client.search_registered_models(max_results=1)
    return client
