"""An MLflow store of its own for each test; a run directory beside it; small real models."""

import shutil
from pathlib import Path

import pytest

from jobs.tracking import Tracker
from tests.tiny_model import save_tiny_model


@pytest.fixture
def mlflow_uri(migrated_store, tmp_path, monkeypatch) -> str:
    """The address of a fresh MLflow store, ``mlflow.db`` in ``tmp_path``."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def run_dir(tmp_path, mlflow_uri) -> Path:
    """A run whose default store is ``mlflow_uri``: the database lies beside it."""
    path = tmp_path / "first"
    path.mkdir()
    return path


@pytest.fixture
def start(run_dir):
    """Start, or take up, the tracked run of ``run_dir``."""

    def start(config=None, **changes) -> Tracker:
        dataset = {"name": "pbmc", "digest": "ab" * 32, "uri": "/data/pbmc"}
        settings = {"experiment": "tests", "config": config or {"seed": 0}, "dataset": dataset}
        return Tracker.start(run_dir, **{**settings, **changes})

    return start


@pytest.fixture
def save_model(tmp_path):
    """Save an untrained model; another ``seed`` gives other weights."""

    def save(name="model", seed=0) -> Path:
        return save_tiny_model(tmp_path / name, weights_seed=seed)

    return save
