"""The one loop: it learns, resumes exactly, stops when told, and never takes a step on a bad loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cfgen_scale.times import TimesConfig
from cfgen_scale.training import NonFiniteLossError, run_stage
from cfgen_scale.training.checkpoint import checkpoints
from cfgen_scale.training.stage_run import validate
from tests.cfgen_scale.training.conftest import KilledError, killed_behind


def fit(built, accelerator, directory, *, kill_after=None):
    """Run a stage; with ``kill_after``, die when the stream is asked for a batch behind that many cells."""
    stage, cells = built
    rows = []
    if kill_after is not None:
        cells = killed_behind(cells, kill_after)
    weights = run_stage(stage, cells, accelerator, directory=directory, seed=0, report=rows.append)
    return weights, rows


DISTURBED = {"dropout": 0.2, "thinning": 0.5, "latent_noise": 0.1}
OTHER_TIMES = {"times": TimesConfig("logit_normal"), "path_noise": 0.1}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("autoencoder_stage", {}),
        ("autoencoder_stage", DISTURBED),
        ("flow_stage", {}),
        ("flow_stage", OTHER_TIMES),
    ],
)
@pytest.mark.parametrize("patience", [0, 50])
def test_a_killed_run_resumed_is_bitwise_the_uninterrupted_one(
    name, options, patience, request, accelerator, tmp_path
):
    build = request.getfixturevalue(name)
    settings = {"checkpoint_every_cells": 70, "validate_every_cells": 40, "patience": patience, **options}
    whole, _ = fit(build(**settings), accelerator, tmp_path / "whole")
    with pytest.raises(KilledError):
        fit(build(**settings), accelerator, tmp_path / "killed", kill_after=200)
    at = int(checkpoints(tmp_path / "killed")[-1].name)
    assert 0 < at < 200
    seen = []
    resumed, _ = fit(build(seen, **settings), accelerator, tmp_path / "killed")
    assert seen[0][0] > at, "cells before the checkpoint are not read again"
    assert resumed.keys() == whole.keys()
    for key, weight in whole.items():
        assert torch.equal(resumed[key], weight), key


def test_a_finished_stage_run_again_does_nothing(autoencoder_stage, accelerator, tmp_path):
    first, _ = fit(autoencoder_stage(), accelerator, tmp_path)
    seen = []
    again, rows = fit(autoencoder_stage(seen), accelerator, tmp_path)
    assert (seen, rows) == ([], [])
    assert all(torch.equal(first[k], again[k]) for k in first)


@pytest.mark.parametrize("name", ["autoencoder_stage", "flow_stage"])
def test_training_lowers_the_validation_loss(name, request, accelerator, tmp_path):
    build = request.getfixturevalue(name)
    _, rows = fit(build(cells=3000, validate_every_cells=200), accelerator, tmp_path)
    losses = [row["validation_loss"] for row in rows if "validation_loss" in row]
    assert losses[-1] < 0.97 * losses[0]
    assert rows[-1]["cells_seen"] >= 3000
    assert {"loss", "cells_per_second", "data_wait_share", "gradient_norm", "learning_rate"} <= set(rows[-1])


def test_intervals_are_in_cells_whatever_the_batch(autoencoder_stage, accelerator, tmp_path):
    _, rows = fit(autoencoder_stage(cells=400, validate_every_cells=100), accelerator, tmp_path)
    judged = [row["cells_seen"] for row in rows if "validation_loss" in row]
    # The first batch that ends at or behind each hundred: batches of 16, the last of each 70 cells has 6.
    assert judged == [102, 204, 312, 414]
    assert [row["learning_rate"] for row in rows if row["cells_seen"] >= 50] == [0.01] * len(rows)


def test_the_gradient_norm_is_that_before_clipping(autoencoder_stage, accelerator, tmp_path):
    stage, cells = autoencoder_stage(cells=16, clip_norm=1e-3)
    batch = next(cells.training(0))
    (stage.losses(stage.network, batch, purpose="training", seed=0).sum() / 16).backward()
    norm = torch.cat([p.grad.flatten() for p in stage.network.parameters()]).norm()
    stage.network.zero_grad()
    _, rows = fit((stage, cells), accelerator, tmp_path)
    assert rows[-1]["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)


def test_patience_stops_early_and_keeps_the_best_weights(autoencoder_stage, accelerator, tmp_path):
    """Seventy cells are soon learnt by heart."""
    built = autoencoder_stage(cells=50_000, learning_rate=0.03, patience=3, validate_every_cells=350)
    weights, rows = fit(built, accelerator, tmp_path)
    losses = [row["validation_loss"] for row in rows if "validation_loss" in row]
    assert rows[-1]["cells_seen"] < 50_000
    assert min(losses) < min(losses[-3:])
    stage, cells = built
    assert validate(stage, cells, accelerator, weights, 0) == pytest.approx(min(losses), rel=1e-6)


@pytest.mark.parametrize("world", [2, 3])
def test_how_a_cell_is_disturbed_does_not_depend_on_who_has_it(autoencoder_stage, world):
    stage, cells = autoencoder_stage(**DISTURBED)
    batch = next(cells.training(0))
    whole = stage.losses(stage.network, batch, purpose="training", seed=0)
    for rank in range(world):
        mine = np.arange(rank, 16, world)
        share = replace(
            batch,
            rows=batch.rows[mine],
            positions=batch.positions[mine],
            counts=(batch.counts[0][mine],),
            labels=batch.labels[mine],
        )
        losses = stage.losses(stage.network, share, purpose="training", seed=0)
        torch.testing.assert_close(losses, whole[mine], rtol=1e-5, atol=1e-4)
    later = replace(batch, cells_seen=batch.cells_seen + 70)
    assert (stage.losses(stage.network, later, purpose="training", seed=0) != whole).all()


@pytest.mark.parametrize(("name", "options"), [("autoencoder_stage", DISTURBED), ("flow_stage", OTHER_TIMES)])
def test_validation_is_the_same_whatever_disturbs_training(name, options, request):
    losses = []
    for given in ({}, options):
        stage, cells = request.getfixturevalue(name)(**given)
        batch = next(iter(cells.validation()))
        losses.append(stage.losses(stage.network, batch, purpose="validation", seed=0))
    assert torch.equal(*losses)


@pytest.mark.parametrize("options", [{}, OTHER_TIMES], ids=["plain", "other times"])
@pytest.mark.parametrize("pairing", ["none", "optimal_transport"])
@pytest.mark.parametrize("world", [2, 3])
def test_what_a_cell_is_trained_on_does_not_depend_on_who_has_it(flow_stage, pairing, world, options):
    """Its noise, its time and what is told of it, by the losses of a network that looks at them all."""
    stage, cells = flow_stage(pairing=pairing, **options)
    batch = next(cells.training(0))
    whole = stage.losses(stage.network, batch, purpose="training", seed=0)
    for rank in range(world):
        mine = np.arange(rank, 16, world)
        share = replace(batch, positions=batch.positions[mine], rows=batch.rows[mine])
        losses = stage.losses(stage.network, share, purpose="training", seed=0)
        torch.testing.assert_close(losses, whole[mine], rtol=1e-5, atol=1e-6)


def test_optimal_transport_keeps_each_cell_with_its_labels(flow_stage):
    """What the network is shown of a cell: its own latent at t = 1 (z_t + (1 - t) u_t) and its own label."""
    stage, cells = flow_stage(pairing="optimal_transport", p_untold=0.0)
    batch = next(cells.training(0))
    shown = []

    def network(t, z_t, condition):
        shown.append((t, z_t, condition))
        return torch.zeros_like(z_t)

    losses = stage.losses(network, batch, purpose="training", seed=0)
    t, z_t, condition = shown[0]
    told = condition.labels
    assert ((told == batch.condition.labels) | (told == -1)).all()
    assert ((told >= 0).sum(1) == 1).all()
    # loss = mean of u_t^2 with u_t = z_1 - z_0 and z_t = z_0 + t u_t, so that z_1 = z_t + (1 - t) u_t.
    noise = (z_t - t[:, None] * batch.latent) / (1 - t[:, None])
    torch.testing.assert_close(losses, (batch.latent - noise).square().mean(1), rtol=1e-3, atol=1e-3)


def test_a_loss_that_is_not_finite_stops_before_the_update(autoencoder_stage, accelerator, tmp_path):
    stage, cells = autoencoder_stage()
    before = {n: p.detach().clone() for n, p in stage.network.named_parameters()}
    original = cells.training

    def poisoned(cells_seen):
        for batch in original(cells_seen):
            batch.counts[0].data = batch.counts[0].data.astype(np.float32)
            batch.counts[0].data[batch.counts[0].indptr[3]] = np.inf
            yield batch

    cells = replace(cells, training=poisoned)
    with pytest.raises(NonFiniteLossError, match=r"rows \[3\].*weights are unchanged"):
        run_stage(stage, cells, accelerator, directory=tmp_path, seed=0, report=print)
    assert all(torch.equal(before[n], p) for n, p in stage.network.named_parameters())


@pytest.mark.parametrize("name", ["autoencoder_stage", "flow_stage"])
@pytest.mark.parametrize("at_once", [None, 5])
def test_a_loss_that_is_not_finite_names_the_rows_of_the_atlas(name, at_once, request, accelerator, tmp_path):
    """In the second batch, of rows 16 to 31, in whole or in parts."""
    stage, cells = request.getfixturevalue(name)(cells_at_once=at_once)
    losses = stage.losses

    def spoilt(network, batch, **purpose):
        bad = np.isin(batch.rows, [18, 29])
        return losses(network, batch, **purpose) + torch.where(torch.from_numpy(bad), torch.nan, 0.0)

    stage.losses = spoilt
    said = r"rows \[18, 29\]" if at_once is None else r"rows \[18\]"
    with pytest.raises(NonFiniteLossError, match=f"the loss of {said} is not finite after 16 cells"):
        run_stage(stage, cells, accelerator, directory=tmp_path, seed=0, report=print)


@pytest.mark.parametrize("name", ["autoencoder_stage", "flow_stage"])
@pytest.mark.parametrize("spoil", ["gradient", "loss"])
def test_a_step_that_would_spoil_the_weights_is_not_taken(name, spoil, request, accelerator, tmp_path):
    stage, cells = request.getfixturevalue(name)()
    losses = stage.losses
    before = {n: p.detach().clone() for n, p in stage.network.named_parameters()}

    def spoilt(network, batch, **purpose):
        zero = 0 * next(network.parameters()).sum()
        # The slope of a square root at zero is infinite, its value is not.
        return losses(network, batch, **purpose) + (zero.sqrt() if spoil == "gradient" else zero + np.nan)

    stage.losses = spoilt
    rows = r"rows \[0, 1, 2, 3, 4\] and 11 more"
    what = {"gradient": "gradient of the batch with", "loss": "loss of"}[spoil]
    with pytest.raises(NonFiniteLossError, match=f"the {what} {rows} is not finite after 0"):
        run_stage(stage, cells, accelerator, directory=tmp_path, seed=0, report=print)
    assert all(torch.equal(before[n], p) for n, p in stage.network.named_parameters())


def test_weights_without_a_finite_validation_loss_are_not_called_the_best(
    autoencoder_stage, accelerator, tmp_path
):
    stage, cells = autoencoder_stage(validate_every_cells=16)
    losses = stage.losses
    stage.losses = lambda network, batch, *, purpose, seed: (
        losses(network, batch, purpose=purpose, seed=seed) + (np.inf if purpose == "validation" else 0)
    )
    with pytest.raises(NonFiniteLossError, match="the validation loss is not finite after 16 cells"):
        run_stage(stage, cells, accelerator, directory=tmp_path, seed=0, report=print)
    assert checkpoints(tmp_path) == []
