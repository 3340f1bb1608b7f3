"""All that a TileDB-SOMA experiment says, to be compared: its bytes tell when and where it was written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiledbsoma

from loaders.atlases import soma_tasks


@contextmanager
def small_slabs() -> Iterator[None]:
    """Slabs of one tile of cells, so that small atlases have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soma_tasks, "COUNTS_AT_ONCE", 1_000)
        patch.setattr(soma_tasks, "CELLS_AT_ONCE", 2_048)
        yield


def soma_contents(experiment: Path) -> dict[str, Any]:
    """Arrays by their places, frames as lists of rows, and what the experiment says of itself."""
    with tiledbsoma.Experiment.open(str(experiment)) as opened:
        found = {"metadata": dict(opened.metadata.items()), "obs": _rows(opened.obs)}
        for name, measurement in opened.ms.items():
            found[f"{name}/var"] = _rows(measurement.var)
            counts = measurement.X["counts"]
            found[f"{name}/X"] = counts.read().coos(counts.shape).concat().to_scipy().toarray().tolist()
            found[f"{name}/nnz"] = counts.nnz, str(counts.schema)
            for key in measurement.obsm if "obsm" in measurement else ():
                found[f"{name}/{key}"] = measurement.obsm[key].read().to_numpy().tolist()
    return found


def fragments_of(experiment: Path) -> dict[str, int]:
    """How many fragments each array has, committed or not; commits and fragments are the same ones."""
    number = {}
    for folder in experiment.rglob("__fragments"):
        names = {path.name for path in folder.iterdir()}
        commits = {path.stem for path in folder.with_name("__commits").iterdir()}
        assert names == commits, f"{folder} has fragments that were torn, or were removed in part"
        number[folder.parent.relative_to(experiment).as_posix()] = len(names)
    return number


def _rows(frame: Any) -> list[dict[str, Any]]:
    table = frame.read().concat()
    assert (np.diff(table["soma_joinid"].to_numpy()) > 0).all()
    rows: list[dict[str, Any]] = table.to_pylist()
    return [{"types": str(table.schema)}, *rows]
