"""The main job by the command line alone, small: prepare, train, generate, evaluate; each step run again."""

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest

from jobs.cli import main
from tests.small_atlas import SMALL_RUN


@pytest.fixture
def chain(tmp_path, small_prepared, migrated_store):
    """The commands of the README on a small atlas, in a directory of their own."""
    where = {name: str(tmp_path / name) for name in ("prepared", "runs/first", "atlas.zarr", "report")}
    (tmp_path / "runs").mkdir()
    shutil.copy(migrated_store, tmp_path / "runs" / "mlflow.db")
    source = str(small_prepared.parent / "atlas.h5ad")
    judged = ["--label", "cell_type", "--out", where["report"]]
    held_out = ["--test-fraction", "0.3", "--min-cells-per-gene", "0"]
    return where, [
        ["prepare", source, "--out", where["prepared"], "--label", "cell_type", *held_out],
        [
            "train",
            "all",
            "--data",
            where["prepared"],
            "--run",
            where["runs/first"],
            "--workers",
            "0",
            *SMALL_RUN,
        ],
        ["generate", "--model", where["runs/first"], "--cells", "200", "--out", where["atlas.zarr"]],
        ["evaluate", "--data", where["prepared"], "--generated", where["atlas.zarr"], *judged],
    ]


def test_from_a_file_to_a_report_and_all_of_it_again(chain, capsys):
    where, commands = chain
    for command in commands + commands:
        assert main(command) == 0, command
    atlas = anndata.read_zarr(where["atlas.zarr"])
    assert atlas.n_obs == 200
    assert atlas.obs["cell_type"].notna().all()
    assert np.issubdtype(atlas.X.dtype, np.integer)
    metrics = json.loads(Path(where["report"], "metrics.json").read_text())
    assert metrics["protocols"]["neutral"]["conditional"]["w2"]["floor"] > 0
    assert "already" in capsys.readouterr().out


def test_a_report_of_other_cells_is_not_replaced(chain, capsys):
    where, commands = chain
    for command in commands:
        assert main(command) == 0
    other = [*commands[2][:-1], where["atlas.zarr"].replace("atlas", "other")]
    assert main(other) == 0
    again = [w.replace("atlas.zarr", "other.zarr") for w in commands[3]]
    assert main(again) == 1
    assert "is the report of other cells" in capsys.readouterr().err
