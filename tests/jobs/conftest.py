import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small_atlas import train_small
from tests.tiny_model import save_tiny_model


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny CFGen."""
    return save_tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray cluster of four slots for all tests of the session that need one."""
    from jobs.cluster import cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        with cluster(4):
            yield


@pytest.fixture(scope="session")
def trained(small_prepared: Path, migrated_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both stages in this process, registered as small@champion in ``mlflow.db`` beside it."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copy(migrated_store, folder)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    return train_small("all", data=small_prepared, run=folder / "run", mlflow_uri=uri, register_as="small")


@pytest.fixture
def runs(migrated_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for training runs, with an empty MLflow store in it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    return tmp_path
