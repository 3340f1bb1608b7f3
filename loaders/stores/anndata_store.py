"""AnnData on disk, read in place: .h5ad, and AnnData-Zarr v2 and v3. Both are groups of the same arrays."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.arrays.blocks import CACHE_BYTES, UNCHUNKED_BLOCK, BlockArray
from loaders.arrays.kept import Kept
from loaders.layout import quick_codecs
from loaders.stores.csr_arrays import CsrArrays, CsrCaches
from loaders.stores.hdf5 import open_hdf5
from loaders.stores.identity import digest_of_cells, digest_of_names
from loaders.stores.store import CellStore, categorical, pick_layer, require_column


def open_h5ad(
    path: str,
    *,
    layer: str | None = None,
    feature_column: str | None = None,
    caches: CsrCaches | None = None,
) -> CellStore:
    """Reader of a .h5ad file. Raises PermissionError, or ValueError if it is none."""
    uri = str(Path(path).absolute())
    group = open_hdf5(path)
    return AnnDataStore(
        group, uri=uri, kind="h5ad", layer=layer, feature_column=feature_column, caches=caches
    )


def open_zarr(
    path: str,
    *,
    layer: str | None = None,
    feature_column: str | None = None,
    is_canonical: bool = False,
    caches: CsrCaches | None = None,
) -> "AnnDataStore":
    """Reader of an AnnData-Zarr v2 or v3 at a path or URL. Raises ValueError if it is none."""
    uri = path if "://" in path else str(Path(path).absolute())
    with quick_codecs():
        try:
            group = zarr.open_group(path, mode="r")
        except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
            raise ValueError(f"{uri} is not an AnnData store: there is no Zarr group in it.") from error
        return AnnDataStore(
            group,
            uri=uri,
            kind="anndata-zarr",
            layer=layer,
            feature_column=feature_column,
            is_canonical=is_canonical,
            caches=caches,
        )


class AnnDataStore:
    """`CellStore` over an opened group with ``obs``, ``var`` and CSR or dense counts.

    ``is_canonical`` says that the genes of every cell are known to ascend, and are not looked at again.
    """

    def __init__(
        self,
        group: Any,
        *,
        uri: str,
        kind: str,
        layer: str | None = None,
        feature_column: str | None = None,
        is_canonical: bool = False,
        caches: CsrCaches | None = None,
    ) -> None:
        self.uri = uri
        self.kind = kind
        _require_anndata(group, uri)
        self._obs = group["obs"]
        counts = _counts_element(group, layer, uri)
        self.features: tuple[str, ...] = _features(group["var"], feature_column, uri)
        self._csr: CsrArrays | None = None
        if _is_group(counts):
            self._csr = CsrArrays(
                counts, n_features=len(self.features), uri=uri, is_canonical=is_canonical, caches=caches
            )
            self.n_cells = self._csr.n_rows
            self.slab_cells, self.kept_cells = self._csr.slab_cells, self._csr.kept_cells
        else:
            cache = caches.data if caches else Kept(CACHE_BYTES)
            self._dense = BlockArray(counts, "X", cache, uri=uri)
            self.n_cells = int(counts.shape[0])
            self.slab_cells = int((counts.chunks or (UNCHUNKED_BLOCK,))[0])
            self.kept_cells = CACHE_BYTES // max(int(counts.shape[1]) * self._dense.dtype.itemsize, 1)

    @property
    def obs_columns(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self._obs.attrs["column-order"])

    def obs_column(self, name: str) -> pd.Categorical:
        require_column(name, self.obs_columns, self.uri)
        return categorical(read_elem(self._obs[name]))

    def obs_names(self, start: int, stop: int) -> NDArray[Any]:
        index = _index_element(self._obs)
        if isinstance(index, h5py.Dataset):
            return index.asstr()[start:stop]
        return np.asarray(index[start:stop], dtype=object)

    def read(self, rows: IntArray, *, dtype: DTypeLike | None = None) -> csr_matrix:
        """As `CellStore.read`; counts are cast to ``dtype`` on the way.

        Raises OSError or ValueError naming the chunk that is missing, cannot be read or is corrupt.
        """
        return self._csr.read(rows, dtype=dtype) if self._csr else self._read_dense(rows, dtype)

    def _read_dense(self, rows: IntArray, dtype: DTypeLike | None) -> csr_matrix:
        places, of_row = np.unique(rows, return_inverse=True)
        return csr_matrix(self._dense.take(places)[of_row], dtype=dtype)

    @property
    def row_pointers(self) -> IntArray:
        """(n_cells + 1,) int64 of counts that are stored as CSR."""
        assert self._csr is not None
        return self._csr.indptr

    def slab_of(self, rows: IntArray) -> IntArray:
        return self._csr.slab_of(rows) if self._csr else rows // self.slab_cells

    def identity(self) -> dict[str, Any]:
        return {
            "cells": self.n_cells,
            "features": len(self.features),
            **(self._csr.identity() if self._csr else {}),
            "names": digest_of_names(self.features),
            "sample": digest_of_cells(self),
        }


def _require_anndata(group: Any, uri: str) -> None:
    missing = [name for name in ("obs", "var") if name not in group or not _is_group(group[name])]
    if missing:
        raise ValueError(
            f"{uri} is not an AnnData store: it has no {' and no '.join(missing)}. "
            f"If it was written by anndata before 0.7, read it and write it again with anndata."
        )


def _counts_element(group: Any, layer: str | None, uri: str) -> Any:
    """The group (CSR) or array (dense) of counts; refuses CSC and what is no matrix."""
    layers = tuple(sorted(group["layers"])) if "layers" in group else ()
    has_x = "X" in group and _encoding(group["X"]) != "null"
    pick_layer(layer, layers, has_x=has_x, uri=uri)
    name = "X" if layer is None else f"layers/{layer}"
    element = group[name]
    match _encoding(element):
        case "csr_matrix" | "array":
            return element
        case "csc_matrix":
            raise ValueError(
                f"{name} of {uri} is stored by column (CSC), and cells cannot be read from it one by one. "
                f"Convert it once: adata.X = adata.X.tocsr(), then write it again."
            )
        case other:
            raise ValueError(f"{name} of {uri} is encoded as {other!r}: counts must be CSR or dense.")


def _encoding(element: Any) -> str:
    default = "unknown group" if _is_group(element) else "array"
    return str(element.attrs.get("encoding-type", default))


def _is_group(element: Any) -> bool:
    return isinstance(element, h5py.Group | zarr.Group)


def _index_element(frame: Any) -> Any:
    """The array with the names of a data frame on disk; a nullable one keeps them in ``values``."""
    index = frame[frame.attrs["_index"]]
    return index["values"] if _is_group(index) else index


def _features(var: Any, column: str | None, uri: str) -> tuple[str, ...]:
    """Names of the features: the index of var, or one of its columns."""
    columns = tuple(str(name) for name in var.attrs["column-order"])
    if column is not None and column not in columns:
        raise ValueError(
            f"{uri} has no var column {column!r} to take the names of features from. Its columns: "
            f"{', '.join(columns) or 'none at all'}; without a column named, the index is taken."
        )
    return tuple(str(name) for name in read_elem(var[column or var.attrs["_index"]]))
