"""The seconds of one cell in each stage, on one worker.

Every term is a formula of sizes; rates come from a Device and a Host. Letters as in `work`; B cells of a
worker's batch, W workers. A product of an (m, k) and a (k, n) matrix is 2 m k n operations.
"""

from ..drawing.on_device import DENSE
from .machine import Device, Host, Seconds
from .work import (
    FLOAT,
    Work,
    autoencoder_weights,
    chunk_file_bytes,
    compressed_bytes,
    field_weights,
    first_layer_weights,
    optimiser_bytes,
    parameters,
    raw_bytes,
    rows_bytes,
)

# Passes over dense (B, G) float32 matrices of one autoencoder step, each read or written once. Forwards:
# counts made dense, their log1p and its product (4), logits and their bias (2), softmax (2), mean over theta
# and its log1p (6), sums and maxima (3). Backwards: mean over theta (4), p (5), the slope by theta (6), sums
# (1), the slope by the logits (7), the products that read it and the counts (3).
TRAINING_PASSES = 43
# On a processor, whose compiled likelihood keeps a cell's row in the cache: logits (2), softmax (1), and
# backwards softmax (1), the slope by the logits (1) and its two products (2).
TRAINING_PASSES_IN_CACHE = 7
ENCODING_PASSES = 4
# Of the fused decoder (drawing.decoded). On a GPU: logits (1), softmax (3), means (2), their check (4), and
# random bits for each entry to find those that may not be 0 (47), which alone are then drawn in float64. On
# a processor the product, which is written and read; the rest is in the rate of draws.
DECODING_PASSES, DECODING_PASSES_IN_CACHE = 57, 2
ENTRY_BYTES = 80 * 8  # moved for each count that is drawn on a GPU: some 80 passes over a list of them
DRAWN_BYTES = 4 + 4  # of a count and its feature on their way from a GPU
# Passes over a (B, H) matrix in a block of the velocity: sums, activations, products, forwards and backwards.
BLOCK_PASSES = 30
# Kernels that one step launches, roughly: they matter where the work of each is small.
AUTOENCODER_KERNELS, FLOW_KERNELS_A_BLOCK, FIELD_KERNELS_A_BLOCK, DRAWING_KERNELS = 150, 60, 15, 250


def autoencoder_step(work: Work, *, on_processor: bool) -> tuple[float, float]:
    """Operations of matrix products, and bytes moved, for one cell of a training step.

    Operations: 2 a weight forwards, 4 backwards (slopes of weights and of inputs), of which the first layer,
    whose inputs need no slope, saves 2, and on a processor all: it takes the layer from the non-zeros. Bytes:
    those of the likelihood, of the first layer, and the optimiser's once a batch.
    """
    both, first_layer = sum(autoencoder_weights(work)), first_layer_weights(work)
    operations = 6 * both - (6 if on_processor else 2) * first_layer
    passes = TRAINING_PASSES_IN_CACHE if on_processor else TRAINING_PASSES
    first = 2 * rows_bytes(work) if on_processor else 0.0
    updated = optimiser_bytes(parameters(work)[0]) / work.batch
    return operations, passes * work.genes * FLOAT + first + updated


def autoencoder_training(work: Work, device: Device, host: Host, workers: int) -> Seconds:
    """One cell of the autoencoder's training: its step on the device, and its counts on their way there."""
    on_processor = device.link is None
    operations, moved = autoencoder_step(work, on_processor=on_processor)
    busy = operations / device.flops
    if device.likelihood and device.rows:
        busy += work.genes / device.likelihood + 2 * rows_bytes(work) / device.rows
        moved = optimiser_bytes(parameters(work)[0]) / work.batch
    busy += moved / device.memory_rate
    return Seconds(
        max(busy, AUTOENCODER_KERNELS * device.launch / work.batch),
        link_seconds(work, device),
        work.nonzeros / host.nonzeros,
        all_reduce_seconds(parameters(work)[0], workers, device) / work.batch,
        one_processor=on_processor,
        operations=operations,
    )


def flow_training(work: Work, device: Device, workers: int) -> Seconds:
    """One cell of the flow's training, from latents that are resident: 6 operations a weight, but 4 of those
    that read what is moved and the time, which need no slopes."""
    config, p = work.model.velocity, parameters(work)[1]
    skipping = work.moved if config.skip != "none" else 0
    heard = work.moved * (config.width + skipping) + 128 * config.embedding
    operations = 6 * p - 2 * heard
    moved = config.blocks * BLOCK_PASSES * config.width * FLOAT + optimiser_bytes(p) / work.flow_batch
    busy = operations / device.flops + moved / device.memory_rate
    launches = (config.blocks + 2) * FLOW_KERNELS_A_BLOCK * device.launch / work.flow_batch
    reduced = all_reduce_seconds(p, workers, device) / work.flow_batch
    return Seconds(max(busy, launches), 0.0, 0.0, reduced, operations=operations)


def encoding(work: Work, device: Device, host: Host) -> Seconds:
    """One cell encoded to its latent: the encoder's products, and counts made dense where they are."""
    encoder, on_processor = autoencoder_weights(work)[0], device.link is None
    if on_processor:
        operations = 2 * (encoder - first_layer_weights(work))
        first = rows_bytes(work) / (device.rows or device.memory_rate)
    else:
        operations, first = 2 * encoder, ENCODING_PASSES * work.genes * FLOAT / device.memory_rate
    return Seconds(
        operations / device.flops + first,
        link_seconds(work, device),
        work.nonzeros / host.nonzeros,
        0.0,
        one_processor=on_processor,
        operations=operations,
    )


def generation(work: Work, device: Device, host: Host, evaluations: int, *, chunk: int) -> Seconds:
    """One generated cell: the field, the decoder with its draws, the chunk's file, and the atlas of them.

    A chunk is written while the next one is drawn, by the disk and not the processor; the atlas is assembled
    when all are there. On a GPU counts are drawn too, and those above 0 alone cross the link.
    """
    config = work.model.velocity
    passes = config.blocks * BLOCK_PASSES / 3 * config.width * FLOAT
    field = 2 * field_weights(work) / device.flops + passes / device.memory_rate
    launches = (config.blocks + 2) * FIELD_KERNELS_A_BLOCK * device.launch / chunk
    decoder = 2 * autoencoder_weights(work)[1]
    busy = evaluations * max(work.conditions * field, launches) + decoder / device.flops
    busy += drawing_seconds(work, device, host, chunk)
    return Seconds(
        busy,
        0.0 if device.link is None else DRAWN_BYTES * work.nonzeros / device.link,
        0.0,
        0.0,
        output=chunk_file_bytes(work) / host.disk,
        assembly=raw_bytes(work) / host.compress + compressed_bytes(work) / host.disk,
        operations=evaluations * work.conditions * 2 * field_weights(work) + decoder,
    )


def drawing_seconds(work: Work, device: Device, host: Host, chunk: int) -> float:
    """From the decoder's last product to a cell's counts."""
    dense = work.genes * FLOAT / device.memory_rate
    if device.link is None:
        return work.genes / host.draws + DECODING_PASSES_IN_CACHE * dense
    rows = min(chunk, max(1, DENSE // work.genes))
    moved = DECODING_PASSES * dense + ENTRY_BYTES * work.nonzeros / device.memory_rate
    return max(moved, DRAWING_KERNELS * device.launch / rows)


def link_seconds(work: Work, device: Device) -> float:
    """A cell's non-zeros on their way to the device, where they are widened."""
    return 0.0 if device.link is None else raw_bytes(work) / device.link


def all_reduce_seconds(p: int, workers: int, device: Device) -> float:
    """A ring: each worker sends 2 (W - 1) / W times the slopes, 4 bytes a parameter, once a batch."""
    return 2 * (workers - 1) / workers * FLOAT * p / device.network
