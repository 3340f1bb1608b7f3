"""A simulated atlas of any size: 20,000 genes, 50 cell types in a long tail, 40 donors one behind the other.

    python -m tests.benchmarks.simulated_atlas --cells 200000 --out /tmp/atlas200k/atlas.zarr

To a loader the counts look like those of an atlas: 1,000 non-zeros a cell, 78.9 % of them ones, all but 4 in
ten million below 256, and all but 16 in a million of the gaps between successive genes, too. Run it without
--out to measure this.

Cell i does not depend on slabs or threads, and memory is bounded by a slab.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from zarr.codecs import BloscCodec

from cfgen_scale.types import IntArray
from loaders.layout import ShardAppender, consolidate, create_atlas, write_frame
from tests.benchmarks.simulated_counts import (
    DONORS,
    GENES,
    GUIDES,
    MOST_GENES,
    TYPES,
    accumulate,
    close_up,
    cluster_sizes,
    draw,
    gap_table,
)

SLAB_CELLS = 4_096
LOG_POPULARITY_SD, LOG_TYPE_SD, LOG_DONOR_SD = 1.35, 0.7, 0.15
TAIL = 1.6  # frequency of the type of rank r goes as r^-TAIL


@dataclass(frozen=True)
class Slab:
    """Neighbouring cells of one donor: counts CSR float32 (n, G), types (n,) as codes."""

    donor: int
    types: NDArray[np.int8]
    counts: csr_matrix


@dataclass(frozen=True)
class SimulatedAtlas:
    """``cells`` cells; cell i is the same in an atlas of the same seed and the same number of cells."""

    cells: int
    seed: int = 0

    def donor_begins(self) -> IntArray:
        """(DONORS + 1,) first cell of each donor."""
        return np.arange(DONORS + 1, dtype=np.int64) * self.cells // DONORS

    def slabs(self) -> Iterator[Slab]:
        """All cells in order, at most `SLAB_CELLS` at a time."""
        scratch = _Scratch.of(min(SLAB_CELLS, self.cells))
        begins = self.donor_begins()
        tables = gap_table(), cluster_sizes()
        for donor in range(DONORS):
            profiles, guides, cumulative_types = self._donor(donor)
            for first in range(begins[donor], begins[donor + 1], SLAB_CELLS):
                n = int(min(SLAB_CELLS, begins[donor + 1] - first))
                types = np.empty(n, dtype=np.int8)
                lengths = np.empty(n, dtype=np.int64)
                drawn = (types, lengths, scratch.counts[:n], scratch.genes[:n])
                draw(self.seed, first, profiles, guides, cumulative_types, *tables, *drawn)
                yield Slab(donor, types, scratch.take(lengths))

    @cached_property
    def _popularity(self) -> NDArray[np.float64]:
        """(TYPES, G) rates of genes in each type, before the donors' differences."""
        rng = np.random.default_rng((self.seed, 0))
        return np.exp(rng.normal(0, LOG_POPULARITY_SD, GENES) + rng.normal(0, LOG_TYPE_SD, (TYPES, GENES)))

    def _donor(self, donor: int) -> tuple[NDArray[np.float32], NDArray[np.int16], NDArray[np.float64]]:
        """Cumulative profiles (TYPES, G + 1), their guides, and cumulative frequencies (TYPES,) of types."""
        rng = np.random.default_rng((self.seed, 1, donor))
        profiles = np.zeros((TYPES, GENES + 1), dtype=np.float32)
        guides = np.zeros((TYPES, GUIDES + 1), dtype=np.int16)
        accumulate(self._popularity, np.exp(rng.normal(0, LOG_DONOR_SD, GENES)), profiles, guides)
        frequencies = np.arange(1, TYPES + 1) ** -TAIL * np.exp(rng.normal(0, 0.5, TYPES))
        return profiles, guides, np.cumsum(frequencies / frequencies.sum())


@dataclass(frozen=True)
class _Scratch:
    """Where the rows of a slab are drawn, each with room for `MOST_GENES`; used again by every slab."""

    counts: NDArray[np.uint16]
    genes: NDArray[np.int32]

    @staticmethod
    def of(cells: int) -> "_Scratch":
        shape = (cells, MOST_GENES)
        return _Scratch(np.empty(shape, np.uint16), np.empty(shape, np.int32))

    def take(self, lengths: IntArray) -> csr_matrix:
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        data = np.empty(indptr[-1], dtype=np.float32)
        indices = np.empty(indptr[-1], dtype=np.int32)
        close_up(self.counts, self.genes, indptr, data, indices)
        return csr_matrix((data, indices, indptr), shape=(len(lengths), GENES))


def obs_frame(types: NDArray[np.int8], donors: NDArray[np.int8]) -> pd.DataFrame:
    """obs of all cells: ``cell_type``, ``donor``, and names that are the row in the atlas."""
    columns = {
        "cell_type": pd.Categorical.from_codes(types, pd.Index([f"type {t:02d}" for t in range(TYPES)])),
        "donor": pd.Categorical.from_codes(donors, pd.Index([f"donor {d:02d}" for d in range(DONORS)])),
    }
    return pd.DataFrame(columns, index=pd.Index(np.arange(len(types)).astype(str).astype(object)))


def write_atlas(atlas: SimulatedAtlas, path: Path) -> None:
    """An AnnData-Zarr v3 as a careful user writes it; written aside and renamed when it is whole.

    float32 counts and int32 indices in chunks of about 64 cells, blosc-lz4 with byte shuffle.
    """
    partial = path.with_name(f"{path.name}.partial")
    root = create_atlas(partial)
    matrix = root.create_group("X")
    shape = [atlas.cells, GENES]
    matrix.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})
    data, indices = (_growing(matrix, *spec) for spec in (("data", np.float32), ("indices", np.int32)))
    slabs = []
    for slab in atlas.slabs():
        data.append(slab.counts.data)
        indices.append(slab.counts.indices)
        slabs.append((slab.types, np.full_like(slab.types, slab.donor), np.diff(slab.counts.indptr)))
    types, donors, lengths = (np.concatenate(parts) for parts in zip(*slabs, strict=True))
    indptr = _growing(matrix, "indptr", np.int64)
    indptr.append(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
    for appender in (data, indices, indptr):
        appender.flush()
    write_frame(root, "obs", obs_frame(types, donors))
    write_frame(root, "var", pd.DataFrame(index=pd.Index([f"gene {g}" for g in range(GENES)], dtype=object)))
    consolidate(partial)
    partial.rename(path)


def _growing(group: zarr.Group, name: str, dtype: Any) -> ShardAppender:
    array = group.create_array(
        name,
        shape=(0,),
        dtype=dtype,
        chunks=(65_536,),
        shards=(64 * 65_536,),
        compressors=[BloscCodec(cname="lz4", clevel=3, shuffle="shuffle", typesize=np.dtype(dtype).itemsize)],
    )
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return ShardAppender(array)


def describe(atlas: SimulatedAtlas) -> dict[str, float]:
    """What a loader feels of the counts of an atlas, and how fast they are drawn."""
    began, nnz, ones, wide, far, total = time.monotonic(), 0, 0, 0, 0, 0.0
    for slab in atlas.slabs():
        counts = slab.counts
        nnz += counts.nnz
        ones += int((counts.data == 1).sum())
        wide += int((counts.data >= 256).sum())
        far += int((np.diff(counts.indices) >= 256).sum())
        total += float(counts.data.sum())
    return {
        "cells": atlas.cells,
        "non-zeros a cell": nnz / atlas.cells,
        "counts a cell": total / atlas.cells,
        "share of ones": ones / nnz,
        "share from 256 on": wide / nnz,
        "share of gaps from 256 on": far / nnz,
        "cells/s": atlas.cells / (time.monotonic() - began),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="AnnData-Zarr to write; without it the counts are described")
    options = parser.parse_args()
    atlas = SimulatedAtlas(options.cells, options.seed)
    if options.out is None:
        print("\n".join(f"{name:<28}{value:>16,.7g}" for name, value in describe(atlas).items()))
        return
    began = time.monotonic()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atlas(atlas, options.out)
    seconds = time.monotonic() - began
    print(f"{options.out}: {atlas.cells:,} cells in {seconds:.1f} s, {atlas.cells / seconds:,.0f} cells/s")


if __name__ == "__main__":
    main()
