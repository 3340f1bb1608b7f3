"""The benchmark of GPUs runs, in small, and its figures mean what they say."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from tests.benchmarks import gpu
from tests.benchmarks.gpu_generation import GenerationSize
from tests.benchmarks.resident_batches import PinnedBatch, copied_ahead, host_batches

CPU = torch.device("cpu")
TINY = replace(gpu.SMALL, cells=96, genes=300, batch=32, flow_cells=96, flow_batch=32, steps=2)
TINY = replace(TINY, curve_steps=25, square=64, copied=2**16)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def host():
    return host_batches(TINY.cells, TINY.genes, TINY.batch)


def test_batches_on_the_device_are_the_cells_of_the_host(host) -> None:
    assert np.array_equal(np.sort(np.concatenate([batch.rows for batch in host])), np.arange(TINY.cells))
    seen = 0
    for i, batch in enumerate(islice(copied_ahead([PinnedBatch.of(b, CPU) for b in host], CPU), 5)):
        seen += TINY.batch
        expected = host[i % 3]
        assert batch.cells_seen == seen
        assert np.array_equal(batch.rows, expected.rows)
        assert np.array_equal(batch.counts[0].dense().numpy(), expected.counts[0].toarray())
        assert np.array_equal(batch.labels.numpy(), expected.labels)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this is what runs where there is no GPU")
def test_it_runs_in_small_on_the_cpu() -> None:
    found = gpu.measure(TINY, GenerationSize(32, 2, 300))
    said = list(gpu.lines(found))
    assert said[0].startswith("There is no CUDA GPU here")
    for precision in ("float32", "bfloat16"):
        one = found["autoencoder"][precision]
        both = one["share_of_arithmetic"] + one["share_of_memory"]
        assert one["share_of_both"] == pytest.approx(both)
        # The shares are of what the device was seen to reach.
        flops = one["cells_per_second"] * one["operations_per_cell"]
        assert one["share_of_arithmetic"] == pytest.approx(flops / one["product_flops"])
        assert len(one["kernels"]) == 8
        assert 0 < sum(kernel["share"] for kernel in one["kernels"]) <= 1
        assert found["flow_cells_per_second"][precision] > 0
    generation = found["generation"]
    assert generation["cells_per_second_to_csr"] > 0
    assert generation["cells_per_second_to_zarr"] > 0
    assert generation["nonzero_share"] == pytest.approx(0.05, rel=0.2)
    curves = found["loss_curves"]
    assert curves["float32"][-1] < curves["float32"][0], "it learns"
    assert 0 < curves["largest_relative_difference"] < 0.02


def test_both_ways_of_copying_train_the_same(host, tmp_path) -> None:
    """The benchmark's own stage and stream take the step of a run."""
    weights = []
    for stage, batches in (
        (gpu.AutoencoderStage, gpu.as_a_run_copies(host)),
        (gpu.DeviceAutoencoderStage, copied_ahead([PinnedBatch.of(b, CPU) for b in host], CPU)),
    ):
        run = gpu.autoencoder_run(stage, TINY, gpu.FLOAT32, str(tmp_path))
        for batch in islice(batches, 4):
            run.step(batch)
        weights.append(run.averaged.weights)
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
