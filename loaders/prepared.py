"""A prepared atlas: where its cells are, what its labels mean, which cells train, and what they are like."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.types import AtlasSchema, AtlasStatistics, IntArray
from loaders.anndata_store import AnnDataStore
from loaders.cell_cache import CellCache
from loaders.manifest import CELLS, INDEX, open_cells, read_manifest
from loaders.scan import column_lookup, select_columns
from loaders.shuffled_blocks import Blocks
from loaders.split import SPLITS
from loaders.statistics import statistics_from_json
from loaders.store import RNA, names_of

ALL = "all"
LEAST_CACHED = 64  # cells that are copied to a cache together, at least


class Prepared:
    """What `prepare` made, opened from its directory. Rows are numbers 0 .. n_cells - 1 of the cells kept.

    A row is a cell's place in the order of its source, or in the shuffled order of a repack (``source_rows``
    says which cell of the source it is). ``digest`` is of what a model learns from, in whatever order;
    ``arrangement`` also of the order, so that what is kept by row (latents, a position in an epoch) holds
    for another prepared atlas of the same ``arrangement``, and for no other.

    Per-cell arrays are read when first asked for. Raises FileNotFoundError or ValueError if the directory is
    not a prepared atlas, or if a source that is read in place has vanished or changed.
    """

    def __init__(self, path: str | Path, *, cache: str | Path | None = None) -> None:
        self.path = Path(path).absolute()
        self.manifest = read_manifest(self.path)
        self.schema = AtlasSchema.from_json(self.manifest["schema"])
        self.digest: str = self.manifest["digest"]
        self.arrangement: str = self.manifest.get("arrangement", self.digest)
        self.n_cells: int = self.manifest["cells"]
        self._index = zarr.open_group(self.path / INDEX, mode="r")
        self._store = open_cells(self.path, self.manifest)
        n_features = len(self._store.features[RNA])
        self._lookup = column_lookup(self._array("columns"), n_features)
        self._cache = None if cache is None else self._opened_cache(Path(cache).absolute())

    @staticmethod
    def open(path: str | Path, *, cache: str | Path | None = None) -> "Prepared":
        """The prepared atlas in directory ``path``.

        cache  directory of a local disk where cells are copied to as they are first read, and read from
               afterwards (loaders/cell_cache.py); several atlases may share it
        """
        return Prepared(path, cache=cache)

    @property
    def summary(self) -> dict[str, Any]:
        """What a person wants to know of it, in order, ready to print."""
        labels = {c.name: f"{len(c.categories)} categories" for c in self.schema.covariates}
        return {
            "prepared": str(self.path),
            "cells": self.n_cells,
            **{f"{name} cells": n for name, n in self.manifest["cells_by_split"].items()},
            "cells dropped (no counts)": self.manifest["cells_dropped"],
            "genes": len(self.schema.modalities[0].features),
            "genes removed (rare)": self.manifest["genes_removed"],
            "labels": labels,
            "counts": "read in place" if self.manifest["in_place"] else self._described_copy(),
            **({"notes": "; ".join(notes)} if (notes := self.manifest.get("notes")) else {}),
            "digest": self.digest,
        }

    @cached_property
    def statistics(self) -> AtlasStatistics:
        """Library sizes, joint labels and gene totals of the training cells."""
        totals = self._array("feature_totals").astype(np.float64)
        return statistics_from_json(self.manifest["statistics"], (totals,))

    @cached_property
    def source_rows(self) -> IntArray:
        """(n_cells,) int64, the row of each cell in its source (several sources one behind the other)."""
        return self._array("source_rows").astype(np.int64)

    def rows(self, split: str) -> IntArray:
        """Rows of one split ("train", "validation", "test" or "all"), ascending int64."""
        if split == ALL:
            return np.arange(self.n_cells, dtype=np.int64)
        if split not in SPLITS:
            raise ValueError(f"there is no split {split!r}: it is one of {', '.join(SPLITS)} or {ALL}.")
        return np.flatnonzero(self._split == SPLITS.index(split)).astype(np.int64)

    def labels(self, rows: IntArray) -> IntArray:
        """Labels (n, K) int64 of cells, -1 = unlabelled."""
        return self._labels[rows].astype(np.int64)

    def totals(self, rows: IntArray) -> NDArray[np.float64]:
        """Total counts (n, S) float64 of cells over the genes kept; all above zero."""
        return self._totals[rows]

    def read(self, rows: IntArray, *, dtype: DTypeLike | None = None) -> tuple[csr_matrix, ...]:
        """Counts per modality, CSR (n, G) of the schema's genes, in the order of ``rows``.

        In the dtype in which they are stored, or ``dtype``: packed cells are cast on their way. Safe to call
        from several threads, which run side by side. Raises OSError or ValueError naming the chunk of a store
        that is missing, cannot be read or is corrupt.
        """
        if self._cache is not None:
            return (self._cache.read(rows, dtype=dtype),)
        if isinstance(self._store, AnnDataStore):
            return (self._store.read(rows, dtype=dtype),)
        counts = self._read_in_place(rows)
        return (counts if dtype is None else counts.astype(dtype, copy=False),)

    def _read_in_place(self, rows: IntArray) -> csr_matrix:
        n_features = len(self.schema.modalities[0].features)
        return select_columns(self._store.read(self._places(rows)), self._lookup, n_features)

    def _opened_cache(self, folder: Path) -> CellCache:
        """This atlas' own part of the directory ``folder``."""
        everything = np.arange(self.n_cells, dtype=np.int64)
        return CellCache(
            folder / self.arrangement[:16],
            read=self._read_in_place,
            blocks=Blocks.of(self.block_of(everything, LEAST_CACHED)),
            features=self.schema.modalities[0].features,
            non_zeros=self.non_zeros(),
            largest_count=self.manifest["largest_count"],
            obs=lambda: self._obs(everything),
        )

    @property
    def slab_cells(self) -> int:
        """About how many neighbouring cells are decoded to read one; 1 where any row costs the same."""
        return self._store.slab_cells

    @property
    def kept_cells(self) -> int:
        """About how many cells the reader keeps decoded in memory."""
        return self._store.kept_cells

    @property
    def is_random_access(self) -> bool:
        """Whether any row costs the same, at the latest when all were read once."""
        return self.slab_cells == 1 or self.kept_cells >= self._store.n_cells

    def block_of(self, rows: IntArray, cells: int) -> IntArray:
        """Number of the block in which each of ``rows`` (m,) lies; they ascend. A block is what the store
        decodes at once, or as many of these as are about ``cells`` together."""
        return self._store.slab_of(self._places(rows)) // max(cells // self.slab_cells, 1)

    def non_zeros(self) -> IntArray:
        """Genes (n_cells,) int64 of each cell."""
        return self._array("non_zeros").astype(np.int64)

    def to_anndata(self, split: str) -> AnnData:
        """The cells of one split in memory: X int32 CSR, labels as categoricals, genes as names."""
        rows = self.rows(split)
        var = pd.DataFrame(index=pd.Index(self.schema.modalities[0].features, dtype=object))
        return AnnData(X=self.read(rows, dtype=np.int32)[0], obs=self._obs(rows), var=var)

    def _obs(self, rows: IntArray) -> pd.DataFrame:
        """Names and labels of cells, by ascending ``rows``."""
        wanted = np.zeros(self._store.n_cells, dtype=bool)
        wanted[self._places(rows)] = True
        names = unique_names(np.array(list(names_of(self._store, wanted)), dtype=object))
        obs = pd.DataFrame(index=pd.Index(names, dtype=object))
        for covariate, codes in zip(self.schema.covariates, self.labels(rows).T, strict=True):
            categories = pd.Index(covariate.categories, dtype=object)
            obs[covariate.name] = pd.Categorical.from_codes(codes, categories=categories)
        return obs

    def _described_copy(self) -> str:
        request = self.manifest["request"]
        order = "shuffled" if request["repack"] else "in the order of the source"
        return f"{self.path / CELLS}, codec {request.get('codec', 'zstd')}, {order}"

    @cached_property
    def _split(self) -> NDArray[np.uint8]:
        return self._array("split")

    @cached_property
    def _labels(self) -> NDArray[Any]:
        return self._array("labels")

    @cached_property
    def _totals(self) -> NDArray[np.float64]:
        return self._array("totals")

    def _array(self, name: str) -> NDArray[Any]:
        return np.asarray(self._index[name])

    def _places(self, rows: IntArray) -> IntArray:
        """Rows of the store of counts; ascending where ``rows`` ascend."""
        return self.source_rows[rows] if self.manifest["in_place"] else rows


def unique_names(names: NDArray[Any]) -> NDArray[Any]:
    """Names of cells with _1, _2, ... behind those that occurred before."""
    series = pd.Series(names, dtype=object)
    while (repeat := series.groupby(series, sort=False).cumcount()).any():
        series = series.where(repeat == 0, series + "_" + repeat.astype(str).astype(object))
    return series.to_numpy(dtype=object)
