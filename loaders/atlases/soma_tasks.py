"""The tasks that fill the laid-out TileDB-SOMA experiment of a generated atlas: each is one slab.

A slab is whole tiles of TileDB-SOMA's default layout, and so many cells that it fits in memory, however the
counts are spread over the atlas.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..layout import SHARD_OF_CELLS
from ..stores.soma_slabs import SLAB_CELLS
from .generated_atlas import GeneratedAtlas
from .generated_layout import LATENT_KEY, counts_path
from .soma_layout import OBS, counts_array, latents_array

CELLS_AT_ONCE = SHARD_OF_CELLS  # of obs and latents; a multiple of SLAB_CELLS
COUNTS_AT_ONCE = 2**22  # or one tile of cells, if that has more
NAME_BYTES, COORDINATE_BYTES = 16, 16  # of a cell's name, about, and of where a count is


@dataclass(frozen=True)
class SomaTask:
    """Cells ``begin`` to ``end`` of an array of the experiment.

    number   its place among all tasks of the experiment
    array    the array's place below the experiment
    n_bytes  of the slab, about, before it is compressed
    """

    number: int
    kind: Literal["obs", "counts", "latents"]
    modality: int
    array: str
    begin: int
    end: int
    n_bytes: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.modality}-{self.number:06d}"


def all_soma_tasks(source: GeneratedAtlas) -> list[SomaTask]:
    """The tasks of an atlas, the same ones each time."""
    slabs = list(_slabs(source))
    return [SomaTask(number, *slab) for number, slab in enumerate(slabs)]


def _slabs(source: GeneratedAtlas) -> Iterator[tuple[Any, ...]]:
    """All of a task but its number."""
    modalities, n_cells = source.schema.modalities, source.n_cells
    starts = range(0, n_cells, CELLS_AT_ONCE)
    of_cells = [(begin, min(begin + CELLS_AT_ONCE, n_cells)) for begin in starts]
    a_row = NAME_BYTES + 4 * (len(source.schema.covariates) + 2 * len(source.schema.counted) + 2)
    for begin, end in of_cells:
        yield "obs", 0, OBS, begin, end, (end - begin) * a_row
    a_latent = 4 * int(source.array(f"obsm/{LATENT_KEY}").shape[1])
    for begin, end in of_cells:
        yield "latents", 0, latents_array(modalities[0].name), begin, end, (end - begin) * a_latent
    for m, modality in enumerate(modalities):
        a_count = source.array(f"{counts_path(source.schema, m)}/data").dtype.itemsize + COORDINATE_BYTES
        for begin, end, counts in _slabs_of_counts(source, m):
            yield "counts", m, counts_array(modality.name), begin, end, counts * a_count


def _slabs_of_counts(source: GeneratedAtlas, m: int) -> Iterator[tuple[int, int, int]]:
    """First cell, the one behind the last, and number of counts: as many tiles of cells as have not more than
    `COUNTS_AT_ONCE`, at least one."""
    indptr, n_cells = source.array(f"{counts_path(source.schema, m)}/indptr"), source.n_cells
    starts = range(0, n_cells, CELLS_AT_ONCE)
    of_tiles = [indptr[i : min(i + CELLS_AT_ONCE, n_cells)][::SLAB_CELLS] for i in starts]
    pointers = np.concatenate([*of_tiles, indptr[n_cells:]]).astype(np.int64)
    tile, n_tiles = 0, len(pointers) - 1
    while tile < n_tiles:
        last = int(np.searchsorted(pointers, pointers[tile] + COUNTS_AT_ONCE, side="right")) - 1
        last = min(max(last, tile + 1), n_tiles)
        counts = int(pointers[last] - pointers[tile])
        yield tile * SLAB_CELLS, min(last * SLAB_CELLS, n_cells), counts
        tile = last
