"""Which order suits a store: cells drawn from anywhere, or blocks of neighbours that are read together.

Where every row costs the same (our packed cells, mapped; a store whose decoded cells all fit into memory) the
order is uniform. Elsewhere a block is what the store decodes at once, or some of it together, and no more
lanes are taken than the store keeps blocks decoded: each block is then decoded once an epoch.
"""

from typing import Literal, get_args

from cfgen_scale.types import IntArray
from loaders.preparation.prepared import Prepared
from loaders.streaming.order import MOST_LANES, Order, default_lanes
from loaders.streaming.shuffled_blocks import Blocks

Granularity = Literal["auto", "uniform", "blocks"]
BLOCK = 256  # cells, where the store decodes fewer at once
KEPT_SHARE = 0.75  # of the cells that a store keeps decoded: what lanes may have in use


def order_of(
    prepared: Prepared,
    rows: IntArray,
    batch_cells: int,
    seed: int,
    *,
    granularity: Granularity = "auto",
    lanes: int | None = None,
) -> Order:
    """The order of the cells ``rows`` (n,), which ascend, of a prepared atlas.

    granularity  "uniform", "blocks", or "auto": which of them suits the store; it does not depend on the
                 machine, so that a run can go on elsewhere
    lanes        the most workers that can share a batch; None takes the most up to 64 that divide the batch
                 and, of blocks, that the store keeps decoded
    """
    if granularity not in get_args(Granularity):
        raise ValueError(f"granularity is one of {', '.join(get_args(Granularity))}, not {granularity!r}.")
    if granularity == "uniform" or (granularity == "auto" and prepared.is_random_access) or not len(rows):
        return Order(len(rows), batch_cells, seed, lanes)
    room = int(KEPT_SHARE * prepared.kept_cells)
    most = max(room // prepared.slab_cells, 1)
    n_lanes = lanes or default_lanes(batch_cells, min(most, MOST_LANES))
    blocks = Blocks.of(prepared.block_of(rows, min(room // n_lanes, BLOCK)))
    return Order(len(rows), batch_cells, seed, n_lanes, blocks=blocks)
