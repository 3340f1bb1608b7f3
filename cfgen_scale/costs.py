"""What training and generation cost: bytes, operations and seconds, to plan with before hours are spent.

Every term is a formula of sizes; rates come from a Device (data sheets, or measured here) and a Host. Seconds
are those of one cell on one worker. Letters: G genes, D latent, H hidden units, B cells of a worker's batch,
P parameters, W workers. A product of an (m, k) and a (k, n) matrix is 2 m k n operations.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from .drawing.on_device import DENSE
from .model_config import ModelConfig

FLOAT = 4  # bytes of a float32
NONZERO_BYTES = 4 + 2
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
# AdamW reads weight, slope and two moments and writes three; the average reads two and writes one; the norm
# and the clipping of the slopes read two and write one; zeroing writes one.
OPTIMISER_FLOATS = 7 + 3 + 3 + 1
# Weights, averaged weights, two moments of AdamW, and the best weights where patience keeps them.
CHECKPOINT_COPIES = 5
# Passes over a (B, H) matrix in a block of the velocity: sums, activations, products, forwards and backwards.
BLOCK_PASSES = 30
# Kernels that one step launches, roughly: they matter where the work of each is small.
AUTOENCODER_KERNELS, FLOW_KERNELS_A_BLOCK, FIELD_KERNELS_A_BLOCK, DRAWING_KERNELS = 150, 60, 15, 250


@dataclass(frozen=True)
class Device:
    """What a worker computes on.

    flops           operations a second that dense matrix products reach, in the precision of training
    memory_rate     bytes a second between the device and its memory
    memory          bytes
    link            bytes a second from the host's memory; None: the device works in the host's memory
    network         bytes a second that one worker sends in an all-reduce
    launch          seconds from one kernel to the next, at least
    source          where the figures come from
    likelihood      genes of cells a second whose likelihood is taken forwards and backwards, and
    rows            bytes a second of the first layer's weights that non-zeros name: of a processor, measured;
                    None: as fast as memory
    """

    name: str
    flops: float
    memory_rate: float
    memory: float
    link: float | None
    network: float
    launch: float
    source: str
    likelihood: float | None = None
    rows: float | None = None


@dataclass(frozen=True)
class Host:
    """What each worker has of its machine.

    nonzeros        non-zeros a second that its reading threads bring from the store to batches
    draws           genes of cells a second whose counts a processor draws (B x G of a chunk over its
                    seconds); a GPU draws them itself
    compress        bytes a second of counts compressed
    disk            bytes a second that the disk writes
    """

    nonzeros: float
    draws: float
    compress: float
    disk: float


@dataclass(frozen=True)
class Work:
    """What is to be done: cells and their shape, the model, and how it is trained.

    cells           cells of the atlas, and of the atlas to generate
    nonzeros        of a cell, mean
    epochs          times that each stage sees each cell
    batch           cells of a worker's batch, of the autoencoder and of the flow
    conditions      fields evaluated at each point: 1, and 1 for each attribute that guides
    """

    cells: float
    genes: int
    nonzeros: float
    model: ModelConfig
    epochs: float = 1.0
    batch: int = 4096
    flow_batch: int = 8192
    conditions: int = 1


@dataclass(frozen=True)
class Seconds:
    """Where the time of a job goes, a cell, on one worker.

    output          written while the device works on
    assembly        made into an atlas when the device has nothing left to do
    one_processor   the device is the host's own processor, so that nothing overlaps
    operations      of the cell's matrix products: their number, no seconds
    """

    device: float
    link: float
    loader: float
    network: float
    output: float = 0.0
    assembly: float = 0.0
    one_processor: bool = False
    operations: float = 0.0

    @property
    def total(self) -> float:
        """The device works while the host reads, sends or writes; the all-reduce comes on top (it can hide
        behind the backward pass, and this counts on nothing), and assembly behind it."""
        parts = (self.device, self.link, self.loader, self.output)
        return (sum(parts) if self.one_processor else max(parts)) + self.network + self.assembly

    @property
    def bottleneck(self) -> str:
        names = ("device", "link", "loader", "network", "output", "assembly")
        return max(names, key=lambda name: float(getattr(self, name)))


def weights(sizes: Sequence[int]) -> int:
    """Weights of the linear layers between these sizes."""
    return sum(n_in * n_out for n_in, n_out in itertools.pairwise(sizes))


def autoencoder_weights(work: Work) -> tuple[int, int]:
    """Weights of the encoder G -> hidden -> D, and of the decoder that mirrors it."""
    hidden, latent = work.model.autoencoder.hidden, work.model.autoencoder.latent
    encoder = first_layer_weights(work) + weights([*hidden, latent])
    return encoder, weights([latent, *reversed(hidden), work.genes])


def first_layer_weights(work: Work) -> int:
    """Weights of the encoder's first layer: a row a gene, and another where expressed genes have one."""
    rows = 2 if work.model.autoencoder.encoder_input == "expressed" else 1
    return rows * work.genes * work.model.autoencoder.hidden[0]


def velocity_weights(work: Work) -> int:
    """Weights of the velocity: inward, three matrices a block (two of them H x H), outward, time, skip."""
    config, latent = work.model.velocity, work.model.autoencoder.latent
    width, embedding = config.width, config.embedding
    blocks = config.blocks * (2 * width * width + embedding * width)
    skip = {"none": 0, "linear": latent * latent, "scaled": latent * (latent + embedding)}[config.skip]
    return 2 * latent * width + blocks + 128 * embedding + embedding * embedding + skip


def field_weights(work: Work) -> int:
    """Weights of the velocity that each generated cell is taken through at each evaluation: not those by
    which cells are told their time and labels, which many share, unless they are told their size factors."""
    config, latent = work.model.velocity, work.model.autoencoder.latent
    if config.size_factor_told:
        return velocity_weights(work)
    skip = 0 if config.skip == "none" else latent * latent
    return 2 * latent * config.width + config.blocks * 2 * config.width**2 + skip


def parameters(work: Work) -> tuple[int, int]:
    """P of the autoencoder (with a theta a gene and biases, which are few) and of the velocity."""
    return sum(autoencoder_weights(work)) + 2 * work.genes, velocity_weights(work)


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


def rows_bytes(work: Work) -> float:
    """Rows of the first layer's weights that a cell's non-zeros name, in bytes."""
    return work.nonzeros / work.genes * first_layer_weights(work) * FLOAT


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
    that read the latent and the time, which need no slopes."""
    config, p = work.model.velocity, parameters(work)[1]
    skipping = work.model.autoencoder.latent if config.skip != "none" else 0
    heard = work.model.autoencoder.latent * (config.width + skipping) + 128 * config.embedding
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


def optimiser_bytes(p: int) -> float:
    """Bytes that the update of P parameters moves, once a batch."""
    return OPTIMISER_FLOATS * p * FLOAT


def link_seconds(work: Work, device: Device) -> float:
    """A cell's non-zeros on their way to the device, where they are widened."""
    return 0.0 if device.link is None else raw_bytes(work) / device.link


def all_reduce_seconds(p: int, workers: int, device: Device) -> float:
    """A ring: each worker sends 2 (W - 1) / W times the slopes, 4 bytes a parameter, once a batch."""
    return 2 * (workers - 1) / workers * FLOAT * p / device.network


def checkpoint_bytes(p: int) -> int:
    """Size of one checkpoint of P parameters."""
    return CHECKPOINT_COPIES * FLOAT * p


def raw_bytes(work: Work) -> float:
    """A cell's non-zeros in a packed atlas and in the batches read from it: an index of 4 bytes and a count
    of 2 (of 1 in an atlas without a count above 255)."""
    return NONZERO_BYTES * work.nonzeros


def compressed_bytes(work: Work) -> float:
    """A cell's non-zeros with shuffle and zstd: about 1 byte each (PBMC3K and a simulated atlas: 0.96)."""
    return work.nonzeros * 1.0


def chunk_file_bytes(work: Work) -> float:
    """A cell's non-zeros in the file of a chunk: indices as narrow as genes allow, and counts of a byte."""
    return ((2 if work.genes <= 2**16 else 4) + 1) * work.nonzeros
