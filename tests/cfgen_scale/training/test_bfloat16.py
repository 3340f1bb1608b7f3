"""bfloat16 autocast: matrix products alone are rounded, so that training stays close to float32's."""

import math

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from cfgen_scale.training import run_stage


@pytest.fixture
def _fresh_state():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("_fresh_state")
@pytest.mark.parametrize("name", ["autoencoder_stage", "flow_stage"])
def test_fifty_steps_in_bfloat16_are_finite_and_within_two_percent(name, request, tmp_path):
    build = request.getfixturevalue(name)
    losses = {}
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(cpu=True, mixed_precision=precision)
        stage, cells = build(cells=50 * 16, validate_every_cells=80)
        rows = []
        run_stage(stage, cells, accelerator, directory=tmp_path / precision, seed=0, report=rows.append)
        losses[precision] = [row["loss"] for row in rows] + [row["validation_loss"] for row in rows]
    assert len(losses["no"]) > 10
    assert all(math.isfinite(loss) for loss in losses["bf16"])
    assert losses["bf16"] == pytest.approx(losses["no"], rel=0.02)
