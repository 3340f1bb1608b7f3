"""Cell Ranger's ``.h5`` files (filtered or raw feature-barcode matrices; also written by CellBender).

Version 3 has a group ``matrix``, version 2 one for each genome. Both store the matrix of features x cells by
column, which is that of cells x features by row, so that cells are read one by one in bounded memory.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.preparation.scan import column_lookup, select_columns
from loaders.stores.csr_arrays import CsrArrays, CsrCaches
from loaders.stores.hdf5 import open_hdf5
from loaders.stores.identity import digest_of_cells, digest_of_names
from loaders.stores.store import WithoutAnnotations
from loaders.stores.tenx_features import Genes, genes_of

MATRIX = "matrix"
NEEDED = ("barcodes", "data", "indices", "indptr", "shape")


def is_tenx_h5(path: str | Path) -> bool:
    """Whether an HDF5 file has a matrix of Cell Ranger in it. Raises as `open_hdf5`."""
    with open_hdf5(str(path)) as file:
        return bool(_matrices(file))


class TenxH5Store(WithoutAnnotations):
    """`CellStore` over the genes of one file; it has no annotations but the barcodes.

    Raises ValueError for a file of several genomes (version 2), or one that is not whole.
    """

    kind = "10x-h5"

    def __init__(
        self, path: str, *, feature_column: str | None = None, caches: CsrCaches | None = None
    ) -> None:
        self.uri = str(Path(path).absolute())
        group = _matrix(open_hdf5(path), self.uri)
        self._barcodes = group["barcodes"]
        n_features, self.n_cells = (int(n) for n in group["shape"][...])
        self._genes = _genes(group, feature_column, self.uri)
        self.features: tuple[str, ...] = self._genes.names
        self._counts = CsrArrays(group, n_features=n_features, uri=self.uri, caches=caches)
        self.slab_cells, self.kept_cells = self._counts.slab_cells, self._counts.kept_cells
        self._lookup = column_lookup(self._genes.columns, n_features)
        if not self.n_cells == self._counts.n_rows == len(self._barcodes):
            raise ValueError(
                f"{self.uri} is corrupt: it has {self.n_cells} cells by its shape, {self._counts.n_rows} by "
                f"indptr and {len(self._barcodes)} barcodes. Copy it again from where it came from."
            )

    def obs_names(self, start: int, stop: int) -> NDArray[Any]:
        return np.array([barcode.decode() for barcode in self._barcodes[start:stop]], dtype=object)

    def read(self, rows: IntArray, *, dtype: DTypeLike | None = None) -> csr_matrix:
        """As `CellStore.read`. Raises OSError or ValueError naming the part that cannot be read."""
        return select_columns(self._counts.read(rows, dtype=dtype), self._lookup, len(self._genes.names))

    def slab_of(self, rows: IntArray) -> IntArray:
        return self._counts.slab_of(rows)

    def identity(self) -> dict[str, Any]:
        return {
            "cells": self.n_cells,
            "features": len(self._genes.names),
            **self._counts.identity(),
            "names": digest_of_names(self._genes.names),
            "sample": digest_of_cells(self),
            "features_left_out": self._genes.left_out,
        }


def _matrices(file: h5py.File) -> list[str]:
    """Names of the groups that hold a matrix."""
    return [
        name
        for name, group in file.items()
        if isinstance(group, h5py.Group) and all(part in group for part in NEEDED)
    ]


def _matrix(file: h5py.File, uri: str) -> h5py.Group:
    """The only group with a matrix."""
    names = _matrices(file)
    if not names:
        raise ValueError(f"{uri} has no matrix of Cell Ranger: no group holds {', '.join(NEEDED)}.")
    if len(names) > 1:
        raise ValueError(
            f"{uri} has one matrix for each of {len(names)} genomes ({', '.join(names)}). Write the one you "
            f"want to a file of its own: scanpy.read_10x_h5(path, genome={names[0]!r}).write_h5ad(...)."
        )
    return file[names[0]]


def _genes(group: h5py.Group, feature_column: str | None, uri: str) -> Genes:
    if "features" not in group:
        ids, names = (_strings(group[name]) for name in ("genes", "gene_names"))
        return genes_of(ids, names, None, feature_column=feature_column, uri=uri)
    features = group["features"]
    kinds = _strings(features["feature_type"]) if "feature_type" in features else None
    ids, names = (_strings(features[name]) for name in ("id", "name"))
    return genes_of(ids, names, kinds, feature_column=feature_column, uri=uri)


def _strings(dataset: h5py.Dataset) -> list[str]:
    return [value.decode() for value in dataset[...]]
