"""The cost model counts what the real networks have and do, and adds it up as it says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import random_array
from torch.utils.flop_counter import FlopCounterMode

from cfgen_scale.autoencoder import Autoencoder, AutoencoderConfig
from cfgen_scale.costs import (
    Device,
    Host,
    Seconds,
    Work,
    all_reduce_seconds,
    autoencoder_training,
    checkpoint_bytes,
    flow_training,
    generation,
    parameters,
)
from cfgen_scale.costs.devices import DEVICES
from cfgen_scale.counts import SparseCounts
from cfgen_scale.counts_layer import SPARSE_BELOW
from cfgen_scale.model_config import ModelConfig
from cfgen_scale.training.checkpoint import Snapshot, TrainState, save_checkpoint
from cfgen_scale.training.config import StageConfig
from cfgen_scale.training.optimisation import AveragedWeights, make_optimiser
from cfgen_scale.types import AtlasSchema, Condition, Covariate, Modality
from cfgen_scale.velocity import Velocity, VelocityConfig

GENES, CELLS = 400, 32
# Rates of one, so that seconds are operations or bytes.
NOTHING = Device("none", 1e30, 1e30, 1e30, None, 1e30, 0.0, "a test")
IDLE = Host(1e30, 1e30, 1e30, 1e30)
SHAPE = ModelConfig(AutoencoderConfig(latent=20, hidden=(64, 32)), VelocityConfig(width=48, embedding=24))
WORK = Work(1000, GENES, 20, SHAPE, batch=CELLS, flow_batch=CELLS)
ARITHMETIC = replace(NOTHING, flops=1.0)


# The levers that cost something.
LEVERS = replace(
    SHAPE,
    autoencoder=replace(SHAPE.autoencoder, encoder_input="expressed"),
    velocity=replace(SHAPE.velocity, skip="scaled"),
)
SHAPES = pytest.mark.parametrize("shape", [SHAPE, LEVERS], ids=["plain", "levers"])


def autoencoder_of(shape):
    genes = tuple(f"gene{g}" for g in range(GENES))
    schema = AtlasSchema(
        (Modality("rna", "negative_binomial", genes),), (Covariate("cell_type", ("B", "NK", "T")),)
    )
    return Autoencoder(shape.autoencoder, schema, [torch.ones(GENES)])


def velocity_of(shape):
    moved = replace(WORK, model=shape).moved
    return Velocity(shape.velocity, latent=moved, n_categories=[3], log_size_range=torch.tensor([[0.0, 1.0]]))


def step(network, *inputs):
    with FlopCounterMode(display=False) as counter:
        network(*inputs).sum().backward()
    return counter.get_total_flops()


@SHAPES
@pytest.mark.parametrize("density", [0.05, 0.3])
def test_operations_of_an_autoencoder_step_are_those_that_torch_counts(shape, density):
    counts = random_array((CELLS, GENES), density=density, format="csr", rng=np.random.default_rng(0))
    counts.data[:] = 1.0
    labels = torch.zeros(CELLS, 1, dtype=torch.int64)
    counted = step(autoencoder_of(shape), [SparseCounts.from_csr(counts)], labels)
    # The first layer is a dense product where counts are so dense, and on a GPU.
    device = ARITHMETIC if density < SPARSE_BELOW else replace(ARITHMETIC, link=1e30)
    work = replace(WORK, model=shape, nonzeros=counts.nnz / CELLS)
    assert CELLS * autoencoder_training(work, device, IDLE, 1).device == pytest.approx(counted, rel=0.02)


@SHAPES
def test_operations_of_a_flow_step_are_those_that_torch_counts(shape):
    condition = Condition(torch.zeros(CELLS, 1, dtype=torch.int64), torch.ones(CELLS, 1))
    counted = step(velocity_of(shape), torch.rand(CELLS), torch.randn(CELLS, 21), condition)
    seconds = flow_training(replace(WORK, model=shape), ARITHMETIC, 1)
    assert CELLS * seconds.device == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("kind", ["flow", "log_normal"])
def test_the_flow_moves_what_a_model_of_one_modality_has_it_move(model_of, kind):
    model = model_of(size_factors=kind)
    assert replace(WORK, model=model.config).moved == model.sizes_beside.width


@SHAPES
def test_parameters_are_those_of_the_networks_but_for_biases(shape):
    networks = autoencoder_of(shape), velocity_of(shape)
    counted = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert parameters(replace(WORK, model=shape)) == pytest.approx(counted, rel=0.04)


def test_a_checkpoint_is_as_large_as_it_says(tmp_path):
    autoencoder = autoencoder_of(SHAPE)
    optimiser = make_optimiser(autoencoder, StageConfig(cells=1, batch_cells=1, learning_rate=0.1))
    for parameter in autoencoder.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    averaged = AveragedWeights(autoencoder, 10)
    snapshot = Snapshot.of(
        TrainState(), network=autoencoder, averaged=averaged, optimiser=optimiser, best=averaged.weights
    )
    path = save_checkpoint(tmp_path, snapshot)
    size = sum(file.stat().st_size for file in path.iterdir())
    p = sum(parameter.numel() for parameter in autoencoder.parameters())
    assert checkpoint_bytes(p) == pytest.approx(size, rel=0.05)


def test_an_all_reduce_is_a_ring():
    network = replace(NOTHING, network=1.0)
    assert [all_reduce_seconds(10, workers, network) for workers in (1, 2, 4)] == [0, 40, 60]


def test_guidance_evaluates_more_fields_and_steps_evaluate_them_again():
    def of(conditions, evaluations):
        work = replace(WORK, conditions=conditions)
        return generation(work, ARITHMETIC, IDLE, evaluations, chunk=512).device

    field = of(1, 1) - of(1, 0)
    assert of(3, 10) - of(1, 0) == pytest.approx(30 * field)


def test_chunks_are_written_while_others_are_drawn_and_assembled_behind_them():
    disk = replace(IDLE, disk=1.0)
    seconds = generation(WORK, ARITHMETIC, disk, 1, chunk=512)
    assert (seconds.output, seconds.assembly) == (3 * 20, 20)
    assert seconds.total == max(seconds.device, 60) + 20
    slow = generation(WORK, NOTHING, replace(disk, compress=0.1), 1, chunk=512)
    assert (slow.total, slow.bottleneck) == (60 + 20 + 6 * 20 / 0.1, "assembly")


def test_counts_are_drawn_where_the_decoder_is():
    """A GPU draws in passes over its memory and sends 8 bytes a count; a processor at its own rate."""
    hand = replace(IDLE, draws=1.0)
    here = generation(WORK, NOTHING, hand, 1, chunk=512)
    there = generation(WORK, replace(NOTHING, link=1.0), hand, 1, chunk=512)
    assert here.device == pytest.approx(GENES)
    assert (there.device, there.link) == (pytest.approx(0, abs=1e-9), 8 * 20)
    memory = generation(WORK, replace(NOTHING, link=1.0, memory_rate=1.0), hand, 0, chunk=512)
    assert memory.device == 57 * 4 * GENES + 640 * 20


def test_supplies_overlap_and_the_slowest_is_the_bottleneck():
    seconds = Seconds(device=3.0, link=1.0, loader=5.0, network=0.5)
    assert (seconds.total, seconds.bottleneck) == (5.5, "loader")
    assert replace(seconds, one_processor=True).total == 9.5


def test_small_steps_are_bound_by_launches():
    slow = replace(NOTHING, launch=1e-5)
    few, many = (flow_training(replace(WORK, flow_batch=b), slow, 1).device for b in (10, 1000))
    assert few == pytest.approx(100 * many)


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_no_device_is_planned_with_more_than_its_data_sheet(device):
    assert device.flops < 989e12
    assert device.memory_rate < 4.8e12
    assert "data sheet" in device.source
