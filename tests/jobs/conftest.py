from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_model import save_tiny_model


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny CFGen."""
    return save_tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray cluster of two slots for all tests of the session that need one."""
    from jobs.cluster import cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        with cluster(2):
            yield
