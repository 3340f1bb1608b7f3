"""What is to be done, and what of it can be counted: weights, and bytes.

Letters: G genes, D latent, S library sizes that the flow draws, H hidden units, P parameters.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ..model_config import ModelConfig

FLOAT = 4  # bytes of a float32
NONZERO_BYTES = 4 + 2
# AdamW reads weight, slope and two moments and writes three; the average reads two and writes one; the norm
# and the clipping of the slopes read two and write one; zeroing writes one.
OPTIMISER_FLOATS = 7 + 3 + 3 + 1
# Weights, averaged weights, two moments of AdamW, and the best weights where patience keeps them.
CHECKPOINT_COPIES = 5


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

    @property
    def moved(self) -> int:
        """Coordinates that the flow moves: D, and where it draws library sizes the S of them, here of one
        modality."""
        return self.model.autoencoder.latent + (self.model.size_factors == "flow")


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
    config, moved = work.model.velocity, work.moved
    width, embedding = config.width, config.embedding
    blocks = config.blocks * (2 * width * width + embedding * width)
    skip = {"none": 0, "linear": moved * moved, "scaled": moved * (moved + embedding)}[config.skip]
    return 2 * moved * width + blocks + 128 * embedding + embedding * embedding + skip


def field_weights(work: Work) -> int:
    """Weights of the velocity that each generated cell is taken through at each evaluation: not those by
    which cells are told their time and labels, which many share, unless they are told their size factors."""
    config, moved = work.model.velocity, work.moved
    if config.size_factor_told:
        return velocity_weights(work)
    skip = 0 if config.skip == "none" else moved * moved
    return 2 * moved * config.width + config.blocks * 2 * config.width**2 + skip


def parameters(work: Work) -> tuple[int, int]:
    """P of the autoencoder (with a theta a gene and biases, which are few) and of the velocity."""
    return sum(autoencoder_weights(work)) + 2 * work.genes, velocity_weights(work)


def rows_bytes(work: Work) -> float:
    """Rows of the first layer's weights that a cell's non-zeros name, in bytes."""
    return work.nonzeros / work.genes * first_layer_weights(work) * FLOAT


def optimiser_bytes(p: int) -> float:
    """Bytes that the update of P parameters moves, once a batch."""
    return OPTIMISER_FLOATS * p * FLOAT


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
