"""A prepared atlas: where its cells are, what its labels mean, which cells train, and what they are like."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.types import AtlasSchema, AtlasStatistics, IntArray, Modality
from loaders.preparation.manifest import INDEX, cells_of, read_manifest
from loaders.preparation.modality_counts import ModalityCounts
from loaders.preparation.split import SPLITS
from loaders.preparation.statistics import statistics_from_json
from loaders.stores.store import names_of

ALL = "all"


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
        self._counts = tuple(
            self._open_modality(modality, entry)
            for modality, entry in zip(self.schema.modalities, self.manifest["modalities"], strict=True)
        )
        self._store = self._counts[0].store
        if cache is not None:
            self._open_caches(Path(cache).absolute() / self.arrangement[:16])

    @staticmethod
    def open(path: str | Path, *, cache: str | Path | None = None) -> "Prepared":
        """The prepared atlas in directory ``path``.

        cache  directory of a local disk where cells are copied to as they are first read, and read from
               afterwards (preparation/cell_cache.py); several atlases may share it
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
            "genes": self._by_modality([len(m.features) for m in self.schema.modalities]),
            "genes removed (rare)": self._by_modality(
                [entry["features_removed"] for entry in self.manifest["modalities"]]
            ),
            "likelihood": self._by_modality([m.likelihood for m in self.schema.modalities]),
            "labels": labels,
            "counts": self._by_modality([self._described(e) for e in self.manifest["modalities"]]),
            **({"notes": "; ".join(notes)} if (notes := self.manifest.get("notes")) else {}),
            "digest": self.digest,
        }

    @cached_property
    def statistics(self) -> AtlasStatistics:
        """Library sizes, joint labels and gene totals of the training cells."""
        totals = tuple(self._array(f"{m.name}/feature_totals") for m in self.schema.modalities)
        return statistics_from_json(self.manifest["statistics"], totals)

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
        """Total counts (n, S) float64 of cells over the features kept, of each modality that has size
        factors; all above zero."""
        return self._totals[rows]

    def read(self, rows: IntArray, *, dtype: DTypeLike | None = None) -> tuple[csr_matrix, ...]:
        """Counts per modality, CSR (n, G) of the schema's genes, in the order of ``rows``.

        In the dtype in which they are stored, or ``dtype``: packed cells are cast on their way. Safe to call
        from several threads, which run side by side. Raises OSError or ValueError naming the chunk of a store
        that is missing, cannot be read or is corrupt.
        """
        return tuple(counts.read(rows, dtype=dtype) for counts in self._counts)

    def _open_modality(self, modality: Modality, entry: dict[str, Any]) -> ModalityCounts:
        group = self._index[modality.name]
        assert isinstance(group, zarr.Group)
        return ModalityCounts(
            self.path,
            modality,
            manifest=self.manifest,
            entry=entry,
            index=group,
            rows=lambda: self.source_rows,
        )

    def _open_caches(self, folder: Path) -> None:
        """A copy for each modality, in a directory of this atlas."""
        everything = np.arange(self.n_cells, dtype=np.int64)
        for counts in self._counts:
            part = folder / counts.modality.name
            counts.open_cache(part, everything, lambda: self._obs(everything))

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
        """Number of the block of the first modality in which each of ``rows`` (m,) lies; they ascend. A
        block is what its store decodes at once, or as many of these as are about ``cells`` together."""
        return self._counts[0].block_of(rows, cells)

    def to_anndata(self, split: str, modality: str | None = None) -> AnnData:
        """The cells of one split in memory: X int32 CSR, labels as categoricals, features as names; of the
        first modality unless one is named. Raises ValueError for a name that is none."""
        names = [each.name for each in self.schema.modalities]
        if modality is not None and modality not in names:
            raise ValueError(f"{self.path} has no modality {modality!r}. It has: {', '.join(names)}.")
        counts, rows = self._counts[names.index(modality or names[0])], self.rows(split)
        var = pd.DataFrame(index=pd.Index(counts.modality.features, dtype=object))
        return AnnData(X=counts.read(rows, dtype=np.int32), obs=self._obs(rows), var=var)

    def _obs(self, rows: IntArray) -> pd.DataFrame:
        """Names and labels of cells, by ascending ``rows``."""
        wanted = np.zeros(self._store.n_cells, dtype=bool)
        wanted[self._counts[0].places(rows)] = True
        names = unique_names(np.array(list(names_of(self._store, wanted)), dtype=object))
        obs = pd.DataFrame(index=pd.Index(names, dtype=object))
        for covariate, codes in zip(self.schema.covariates, self.labels(rows).T, strict=True):
            categories = pd.Index(covariate.categories, dtype=object)
            obs[covariate.name] = pd.Categorical.from_codes(codes, categories=categories)
        return obs

    def _described(self, entry: dict[str, Any]) -> str:
        if entry["in_place"]:
            return "read in place"
        request = self.manifest["request"]
        order = "shuffled" if request["repack"] else "in the order of the source"
        return f"{self.path / cells_of(entry['name'])}, codec {request['codec']}, {order}"

    def _by_modality(self, values: Sequence[Any]) -> Any:
        names = [modality.name for modality in self.schema.modalities]
        return values[0] if len(values) == 1 else dict(zip(names, values, strict=True))

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


def unique_names(names: NDArray[Any]) -> NDArray[Any]:
    """Names of cells with _1, _2, ... behind those that occurred before."""
    series = pd.Series(names, dtype=object)
    while (repeat := series.groupby(series, sort=False).cumcount()).any():
        series = series.where(repeat == 0, series + "_" + repeat.astype(str).astype(object))
    return series.to_numpy(dtype=object)
