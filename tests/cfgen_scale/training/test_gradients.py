"""Batches taken in parts train as whole ones do."""

from dataclasses import replace

import pytest
import torch

from cfgen_scale.training import run_stage


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("autoencoder_stage", {}),
        ("autoencoder_stage", {"dropout": 0.2, "thinning": 0.5, "latent_noise": 0.1}),
        ("flow_stage", {}),
        ("flow_stage", {"path_noise": 0.1}),
    ],
)
def test_parts_of_a_batch_give_the_weights_of_the_whole(name, options, request, accelerator, tmp_path):
    """Batches of 16 cells, the last of an epoch of 6, in parts of 5."""
    build = request.getfixturevalue(name)
    found, sizes = {}, {}
    for at_once in (None, 5):
        stage, cells = build(cells=300, cells_at_once=at_once, **options)
        seen = sizes[at_once] = []
        losses = stage.losses

        def counted(*given, losses=losses, seen=seen, **named):
            of_cells = losses(*given, **named)
            if named["purpose"] == "training":
                seen.append(len(of_cells))
            return of_cells

        stage.losses = counted
        rows = []
        directory = tmp_path / str(at_once)
        weights = run_stage(stage, cells, accelerator, directory=directory, seed=0, report=rows.append)
        found[at_once] = weights, rows[-1]["loss"]
    assert sizes[None][:5] == [16, 16, 16, 16, 6]
    assert sizes[5][:17] == [5, 5, 5, 1] * 4 + [5]
    torch.testing.assert_close(found[5][0], found[None][0], rtol=1e-3, atol=1e-4)
    assert found[5][1] == pytest.approx(found[None][1], rel=1e-4)


@pytest.mark.parametrize("name", ["autoencoder_stage", "flow_stage"])
def test_a_share_of_no_cell_is_one_part(name, request):
    stage, cells = request.getfixturevalue(name)(cells_at_once=5)
    batch = next(cells.training(0))
    names = ("rows", "positions", "labels") if hasattr(batch, "labels") else ("rows", "positions")
    empty = {name: getattr(batch, name)[:0] for name in names}
    if hasattr(batch, "counts"):
        empty["counts"] = tuple(counts[:0] for counts in batch.counts)
    (none,) = stage.parts(replace(batch, **empty))
    assert stage.losses(stage.network, none, purpose="training", seed=0).shape == (0,)
