"""The sample of a SOMA experiment's counts by which it is told from another; see stores/identity.py.

A query of its own, of a few cells: what reads whole slabs would take seconds. Of the stored values, not of
TileDB's fragments, which a consolidation replaces.
"""

import hashlib
from typing import Any

import numpy as np

from cfgen_scale.types import IntArray
from loaders.stores.identity import sampled
from loaders.stores.soma_errors import readable


def digest_of_sample(counts: Any, joinids: IntArray) -> str:
    """sha256 of all counts of a few of the cells ``joinids`` (N,), in the order of cells and genes."""
    cells = joinids[sampled(len(joinids))].tolist()
    with readable(counts.uri):
        table = counts.read((cells,)).tables().concat()
    dimensions = [table[f"soma_dim_{axis}"].to_numpy() for axis in (0, 1)]
    order = np.lexsort(dimensions[::-1])
    whole = hashlib.sha256()
    for part in (*dimensions, table["soma_data"].to_numpy().astype("<f8")):
        whole.update(part[order].tobytes())
    return whole.hexdigest()
