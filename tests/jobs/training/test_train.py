"""Training as a job, in one process: what it leaves, what the same call again does, what it refuses."""

import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cfgen_scale.files import read_json
from cfgen_scale.model import CFGen
from jobs.config import ConfigError
from jobs.tracking import Tracker, connect, list_models, resolve_model
from jobs.training.run_directory import RunDirectory, RunError
from jobs.training.train import require_one_launcher
from loaders.preparation.prepare import prepare
from loaders.preparation.prepared import Prepared
from tests.small_atlas import N_GENES, SMALL_RUN, metrics_of, small_atlas, train_small
from tests.tree_bytes import tree_bytes

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.device_count() > 0, reason="this machine has a GPU")


def store_of(run: Path) -> str:
    return f"sqlite:///{run.parent / 'mlflow.db'}"


def test_the_model_alone_generates(trained: Path, small_prepared: Path, tmp_path: Path) -> None:
    model = CFGen.load(shutil.copytree(trained / "model", tmp_path / "elsewhere"))
    cells = model.generate(30, {"cell_type": "NK"})
    assert cells.shape == (30, N_GENES)
    assert np.issubdtype(cells.X.dtype, np.integer)
    assert set(cells.obs["cell_type"]) == {"NK"}
    prepared = Prepared.open(small_prepared)
    assert model.schema == prepared.schema
    assert model.provenance["data"]["digest"] == prepared.digest


def test_metrics_go_forward_and_losses_down(trained: Path) -> None:
    rows = metrics_of(trained)
    places = [(("autoencoder", "flow").index(row["stage"]), row["cells_seen"]) for row in rows]
    assert all(before < after for before, after in itertools.pairwise(places))
    for stage in ("autoencoder", "flow"):
        losses = [r["validation_loss"] for r in rows if r["stage"] == stage and "validation_loss" in r]
        assert losses[-1] < 0.99 * losses[0]
        assert max(row["cells_seen"] for row in rows if row["stage"] == stage) >= 2000


def test_mlflow_has_parameters_data_metrics_and_the_registered_model(
    trained: Path, small_prepared: Path
) -> None:
    client = connect(store_of(trained))
    run = client.get_run(read_json(trained / "mlflow.json")["run_id"])
    assert run.info.status == "FINISHED"
    given = {setting.split("=")[0] for setting in SMALL_RUN}
    assert given < run.data.params.keys()
    assert run.data.params["flow.cells"] == "2000"
    assert run.data.tags["cfgen_scale.data_digest"] == Prepared.open(small_prepared).digest
    for name in ("loss", "validation_loss", "learning_rate"):
        history = client.get_metric_history(run.info.run_id, f"flow/{name}")
        rows = [row for row in metrics_of(trained) if row["stage"] == "flow" and name in row]
        assert [(m.step, m.value) for m in history] == [(row["cells_seen"], row[name]) for row in rows]
    registered = resolve_model("models:/small@champion", uri=store_of(trained))
    assert CFGen.load(registered).digest == CFGen.load(trained / "model").digest


def test_cells_from_a_cache_train_the_same_model(
    trained: Path, small_prepared: Path, runs: Path, tmp_path: Path
) -> None:
    cached = train_small("all", data=small_prepared, run=runs / "run", cache=tmp_path / "cache")
    assert tree_bytes(cached / "model") == tree_bytes(trained / "model")
    assert list((tmp_path / "cache").glob("*/rna/cells.zarr*"))


def test_an_outage_of_mlflow_costs_nothing(
    small_prepared: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log, failed = Tracker.log_rows, []

    def fail_once(self: Tracker, rows: Sequence[Mapping[str, Any]]) -> None:
        if not failed:
            failed.append(True)
            raise ConnectionError("no route to MLflow")
        log(self, rows)

    monkeypatch.setattr(Tracker, "log_rows", fail_once)
    run = train_small(
        "all", data=small_prepared, run=runs / "run", mlflow_uri=store_of(runs / "run"), register_as="small"
    )
    assert capsys.readouterr().err.count("metrics cannot be logged (ConnectionError: no route") == 1
    client = connect(store_of(run))
    tracked = client.get_run(read_json(run / "mlflow.json")["run_id"])
    assert tracked.info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(tracked.info.run_id, "flow/loss")]
    assert steps == [row["cells_seen"] for row in metrics_of(run) if row["stage"] == "flow"]
    assert resolve_model("models:/small@champion", uri=store_of(run)).exists()


def test_the_same_call_again_changes_nothing(
    trained: Path, small_prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree_bytes(trained)
    train_small("all", data=small_prepared, run=trained, mlflow_uri=store_of(trained), register_as="small")
    assert f"{trained} is already trained." in capsys.readouterr().out
    assert tree_bytes(trained) == before
    (version,) = list_models(uri=store_of(trained))
    assert connect(store_of(trained)).get_run(version.run_id).info.status == "FINISHED"


def test_one_stage_after_the_other_is_both(
    trained: Path, small_prepared: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_small("autoencoder", data=small_prepared, run=runs / "parts")
    assert not (runs / "parts" / "model").exists()
    train_small("autoencoder", data=small_prepared, run=runs / "parts")
    assert "is already trained" in capsys.readouterr().out
    train_small("flow", data=small_prepared, run=runs / "parts")
    assert tree_bytes(runs / "parts" / "model") == tree_bytes(trained / "model")


def test_another_seed_is_another_model(trained: Path, small_prepared: Path, runs: Path) -> None:
    other = train_small("all", data=small_prepared, run=runs / "other", overrides=["seed=1"])
    assert metrics_of(other) != metrics_of(trained)


@pytest.mark.parametrize(
    ("stages", "options", "says"),
    [
        ("flow", {}, "has no trained autoencoder yet. Run `train autoencoder`"),
        ("autoencoder", {"register_as": "small"}, "'small' cannot be registered by training the autoencoder"),
        ("all", {"workers": -1}, "workers must be 0"),
        ("all", {"workers": 2, "restarts": -2}, "restarts must be 0 or more, or -1"),
        ("all", {"storage": "s3://bucket/runs"}, "--workers 1 or more"),
        ("all", {"placement": "spread"}, "--workers 1 or more"),
        pytest.param("all", {"device": "cuda"}, "--device cuda: this machine has 0 GPUs", marks=WITHOUT_GPU),
    ],
)
def test_what_cannot_be_trained_leaves_no_run(
    small_prepared: Path, runs: Path, stages: str, options: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        train_small(stages, data=small_prepared, run=runs / "run", **options)
    assert not (runs / "run").exists()


def test_ray_workers_inside_of_launched_processes_are_refused() -> None:
    require_one_launcher(0, 8)
    require_one_launcher(8, 1)
    with pytest.raises(ConfigError, match=r"2 processes were launched.*--workers 0"):
        require_one_launcher(1, 2)


def test_a_run_goes_on_where_its_data_were_moved_to(small_prepared: Path, runs: Path) -> None:
    here, there = runs / "here", runs / "there"
    shutil.copytree(small_prepared, here)
    train_small("autoencoder", data=here, run=runs / "run")
    here.rename(there)
    train_small("flow", data=there, run=runs / "run")
    assert RunDirectory(runs / "run").document()["data"] == str(there)


def test_the_same_cells_in_another_order_are_refused(small_prepared: Path, runs: Path) -> None:
    """Latents and positions are kept by row: they would be taken for other cells, without a word."""
    train_small("autoencoder", data=small_prepared, run=runs / "run")
    repacked = prepare(
        small_atlas(),
        runs / "repacked",
        labels=["cell_type", "donor"],
        split_column="split",
        min_cells_per_gene=0,
        repack=True,
        progress=False,
    )
    assert repacked.digest == Prepared.open(small_prepared).digest
    with pytest.raises(RunError, match="begun on other cells, or on these in another order"):
        train_small("flow", data=repacked.path, run=runs / "run")


def test_the_flow_does_not_go_on_with_latents_of_another_autoencoder(
    trained: Path, small_prepared: Path, runs: Path
) -> None:
    run = RunDirectory(shutil.copytree(trained, runs / "run"))
    run.result("flow").unlink()
    shutil.rmtree(run.model)
    (run.path / "mlflow.json").unlink()
    weights = load_file(run.result("autoencoder"))
    save_file({name: 1.5 * tensor for name, tensor in weights.items()}, run.result("autoencoder"))
    with pytest.raises(ValueError, match="was made with latents"):
        train_small("flow", data=small_prepared, run=run.path)
    assert not run.finished("flow")


def test_a_diverging_run_says_so_and_ends_as_failed(small_prepared: Path, runs: Path) -> None:
    overrides = ["autoencoder.learning_rate=1e30", "autoencoder.warmup_cells=0"]
    with pytest.raises(ValueError, match=r"autoencoder: the loss of rows .* is not finite after 32 cells"):
        train_small("all", data=small_prepared, run=runs / "run", overrides=overrides)
    assert not RunDirectory(runs / "run").finished("autoencoder")
    run_id = read_json(runs / "run" / "mlflow.json")["run_id"]
    assert connect(store_of(runs / "run")).get_run(run_id).info.status == "FAILED"
    with pytest.raises(RunError, match=r"begun with autoencoder\.learning_rate=1e\+30, not 0\.01"):
        train_small("all", data=small_prepared, run=runs / "run")
