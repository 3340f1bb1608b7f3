"""Where MLflow is looked for."""

from pathlib import Path

import pytest

from jobs.tracking import tracking_uri
from jobs.tracking.store import artifact_location, registry_uri


def test_a_run_is_tracked_beside_its_directory_unless_said_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking_uri(Path("runs/first")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking_uri(Path("runs/first")) == "http://mlflow:5000"
    assert tracking_uri(Path("runs/first"), "sqlite:///elsewhere.db") == "sqlite:///elsewhere.db"


def test_files_lie_beside_a_local_database_and_where_a_server_wants_them(tmp_path):
    assert artifact_location(f"sqlite:///{tmp_path}/mlflow.db") == f"{tmp_path}/mlflow-artifacts"
    assert artifact_location("http://mlflow:5000") is None


def test_a_registry_is_found_in_the_working_directory_or_its_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no mlflow\.db in .* --mlflow-uri"):
        registry_uri()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").touch()
    assert registry_uri() == f"sqlite:///{tmp_path}/runs/mlflow.db"
    (tmp_path / "mlflow.db").touch()
    assert registry_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert registry_uri("http://mlflow:5000") == "http://mlflow:5000"
