"""A run directory belongs to one configuration and one atlas, and to one trainer at a time."""

import json
from dataclasses import asdict

import pytest

from cfgen_scale.training.config import TrainConfig
from jobs.config import load_config
from jobs.training.books import append_metrics, last_place, truncate_metrics
from jobs.training.ray_worker import BooksOfOwner
from jobs.training.run_directory import RunError, open_run, sole_trainer


def begin(tmp_path, *overrides, digest="abc", name="run"):
    return open_run(
        tmp_path / name, config=asdict(load_config(overrides=overrides)), data=tmp_path, data_digest=digest
    )


def test_the_resolved_configuration_comes_back(tmp_path):
    run = begin(tmp_path, "flow.cells=1234", "model.autoencoder.hidden=[8]")
    assert run.config() == load_config(overrides=["flow.cells=1234", "model.autoencoder.hidden=[8]"])
    assert begin(tmp_path, "flow.cells=1234", "model.autoencoder.hidden=[8]").path == run.path


def test_another_configuration_is_refused_by_its_first_key(tmp_path):
    begin(tmp_path)
    with pytest.raises(RunError, match=rf"flow\.cells={TrainConfig().flow.cells}, not 99"):
        begin(tmp_path, "flow.cells=99")


def test_other_cells_are_refused(tmp_path):
    begin(tmp_path)
    with pytest.raises(RunError, match="begun on other cells"):
        begin(tmp_path, digest="other")


def test_a_directory_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="is not a training run"):
        begin(tmp_path)


def test_a_second_trainer_is_refused_while_the_first_holds_the_run(tmp_path):
    run = begin(tmp_path)
    with sole_trainer(run), pytest.raises(RunError, match="another process"), sole_trainer(run):
        pass
    with sole_trainer(run):
        pass


def test_workers_that_outlive_their_driver_write_nothing_into_the_run_of_the_next(tmp_path):
    run = begin(tmp_path)
    with sole_trainer(run):
        first = BooksOfOwner(run, run.lock.read_text())
        first.add({"stage": "flow", "cells_seen": 10})
        with pytest.raises(RunError), sole_trainer(run):
            pass
        first.add({"stage": "flow", "cells_seen": 20})
    with sole_trainer(run):
        for write in (lambda: first.add({"stage": "flow", "cells_seen": 30}), lambda: first.begin("flow", 0)):
            with pytest.raises(RunError, match="taken up by another trainer"):
                write()
    assert run.metrics.read_text().count("\n") == 2


def test_what_a_kill_left_is_tidied_up_and_nothing_is_lost(tmp_path):
    """What was about to be replaced goes back, where the new one did not come to its place."""
    run = begin(tmp_path)
    kept = run.checkpoints("flow")
    for name in (".0100.7.replaced", "0200", ".0200.7.replaced", ".0300.7.aside"):
        (kept / name).mkdir(parents=True)
        (kept / name / "state.json").write_text(name)
    run.latents.mkdir()
    for path in (run.latents / ".whitening.safetensors.7.aside", run.path / ".run.json.7.aside"):
        path.write_text("half")
    with sole_trainer(run):
        pass
    assert sorted(path.name for path in kept.iterdir()) == ["0100", "0200"]
    assert [(kept / name / "state.json").read_text() for name in ("0100", "0200")] == [
        ".0100.7.replaced",
        "0200",
    ]
    assert [p for p in run.path.rglob("*") if "aside" in p.name or "replaced" in p.name] == []


def test_metrics_behind_the_restored_position_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    truncate_metrics(path, "flow", 0)
    for stage, cells_seen in (("autoencoder", 30), ("flow", 10), ("flow", 20), ("flow", 30)):
        append_metrics(path, {"stage": stage, "cells_seen": cells_seen})
    with open(path, "a") as file:
        file.write('{"stage": "flow", "cel')
    truncate_metrics(path, "flow", 20)
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["stage"], row["cells_seen"]) for row in kept] == [
        ("autoencoder", 30),
        ("flow", 10),
        ("flow", 20),
    ]


def test_notes_stay_where_metrics_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert last_place(path)["cells_seen"] == 0
    append_metrics(path, {"stage": "flow", "cells_seen": 30, "cells_total": 90, "loss": 1.0})
    with open(path, "a") as file:
        file.write('{"stage": "flow", "cel')
    place = last_place(path)
    assert place == {"stage": "flow", "cells_seen": 30, "cells_total": 90}
    truncate_metrics(path, "flow", 30)
    append_metrics(path, {**place, "note": "a worker was lost"})
    truncate_metrics(path, "flow", 20)
    (kept,) = path.read_text().splitlines()
    assert json.loads(kept)["note"] == "a worker was lost"
