"""What tests of several folders share: made once, since each costs seconds."""

from pathlib import Path

import pytest

from tests.small_atlas import prepare_small_atlas


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database with its tables: making them takes 5 s, copying the file none."""
    from jobs.tracking import connect

    database = tmp_path_factory.mktemp("mlflow-template") / "mlflow.db"
    connect(f"sqlite:///{database}")
    return database


@pytest.fixture(scope="session")
def small_prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small atlas, prepared; its source ``atlas.h5ad`` lies beside it."""
    return prepare_small_atlas(tmp_path_factory.mktemp("small-atlas"))
