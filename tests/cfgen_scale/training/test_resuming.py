"""A resumed stage says what it keeps, and takes up nothing of another run."""

from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from cfgen_scale.files import read_json
from cfgen_scale.training import run_stage
from cfgen_scale.training.checkpoint import checkpoints
from cfgen_scale.training.resuming import what_is_kept
from tests.cfgen_scale.training.conftest import KilledError, killed_behind

HERE = {"workers": 2, "threads": 4, "device": "x86_64 AVX512", "torch": "2.9"}


def test_nothing_is_said_where_the_bits_are_kept():
    assert what_is_kept(HERE, dict(HERE)) is None


def test_a_gpu_keeps_no_bits():
    on_gpu = {**HERE, "device": "cuda NVIDIA H100"}
    assert what_is_kept(on_gpu, dict(on_gpu)) == (
        "resumed on cuda NVIDIA H100: the sequence of cells is kept, the last bits of the weights are not"
    )
    assert "x86_64 AVX512 -> cuda NVIDIA H100 as device" in what_is_kept(HERE, on_gpu)


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ({"workers": 1}, "resumed with 2 -> 1 workers: the sequence of cells is kept, the last bits"),
        ({"threads": 8, "torch": "3.0"}, "4 -> 8 threads, 2.9 -> 3.0 as torch"),
    ],
)
def test_what_changed_is_named(now, says):
    assert says in what_is_kept(HERE, {**HERE, **now})


@pytest.fixture
def half_done(autoencoder_stage, accelerator, tmp_path):
    """A stage that ended at 200 of 400 cells, with its checkpoint; returns how it goes on."""

    def go_on(cells=400, **how):
        rows = []
        settings = {"seed": 0, "data": {"data": "abc"}, "versions": {"torch": "1"}, **how}
        weights = run_stage(
            *autoencoder_stage(cells=cells, decay="none"),
            accelerator,
            directory=tmp_path,
            report=rows.append,
            **settings,
        )
        return weights, rows

    go_on()
    return go_on, tmp_path


def test_a_checkpoint_holds_all_that_a_resume_must_agree_on(half_done):
    state = read_json(checkpoints(half_done[1])[-1] / "state.json")
    assert state["made_of"]["seed"] == 0
    assert state["made_of"]["configuration"]["batch_cells"] == 16
    assert state["made_of"]["network"]["hidden"] == [16, 8]
    assert state["made_of"]["data"] == "abc"
    assert state["circumstances"]["workers"] == 1
    assert state["circumstances"]["threads"] == torch.get_num_threads()
    assert state["versions"] == {"torch": "1"}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"seed": 1}, "made with seed 0, and this run has 1"),
        ({"data": {"data": "other"}}, "made with data 'abc'"),
        ({"cells": 800}, "made with configuration"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(half_done, how, says):
    with pytest.raises(ValueError, match=says):
        half_done[0](**how)


@pytest.mark.parametrize("name", ["autoencoder_stage", "flow_stage"])
def test_a_checkpoint_of_another_network_is_refused_before_its_weights_are_taken(
    name, request, accelerator, tmp_path
):
    build = request.getfixturevalue(name)
    run_stage(*build(), accelerator, directory=tmp_path, seed=0, report=print)
    stage, cells = build()
    before = {name: p.detach().clone() for name, p in stage.network.named_parameters()}
    changes = {"initial_theta": 7.0} if name == "autoencoder_stage" else {"size_factor_told": True}
    stage.network_config = replace(stage.network_config, **changes)
    with pytest.raises(ValueError, match=f"made with network .*{next(iter(changes))}.*Restore the value"):
        run_stage(stage, cells, accelerator, directory=tmp_path, seed=0, report=print)
    assert all(torch.equal(before[name], p) for name, p in stage.network.named_parameters())


def test_other_threads_are_noted_and_kept_in_the_next_checkpoint(autoencoder_stage, accelerator, tmp_path):
    def run(after=None):
        rows = []
        stage, cells = autoencoder_stage(checkpoint_every_cells=100)
        if after is not None:
            cells = killed_behind(cells, after)
        with suppress(KilledError):
            run_stage(stage, cells, accelerator, directory=tmp_path, seed=0, report=rows.append)
        return rows

    threads = torch.get_num_threads()
    run(after=200)
    at = int(checkpoints(tmp_path)[-1].name)
    try:
        torch.set_num_threads(threads + 1)
        (note,) = [row for row in run() if "note" in row]
    finally:
        torch.set_num_threads(threads)
    assert (note["cells_seen"], note["workers"], note["threads"]) == (at, 1, threads + 1)
    assert f"{threads} -> {threads + 1} threads" in note["note"]
    state = read_json(checkpoints(tmp_path)[-1] / "state.json")
    assert state["circumstances"]["threads"] == threads + 1
