"""AnnData on disk, read in place: .h5ad, and AnnData-Zarr v2 and v3. Both are groups of the same arrays."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.blocks import BlockArray, BlockCache
from loaders.store import RNA, CellStore, categorical, pick_layer, require_column


def open_h5ad(path: str, *, layer: str | None = None) -> CellStore:
    """Reader of a .h5ad file. Raises ValueError if it is none."""
    try:
        group = h5py.File(path, mode="r")
    except OSError as error:
        raise ValueError(f"{path} is not an HDF5 file that can be opened: {error}.") from error
    return AnnDataStore(group, uri=str(Path(path).absolute()), kind="h5ad", layer=layer)


def open_zarr(path: str, *, layer: str | None = None) -> CellStore:
    """Reader of an AnnData-Zarr v2 or v3 at a path or URL. Raises ValueError if it is none."""
    uri = path if "://" in path else str(Path(path).absolute())
    with _quick_decoding():
        try:
            group = zarr.open_group(path, mode="r")
        except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
            raise ValueError(f"{uri} is not an AnnData store: there is no Zarr group in it.") from error
        return AnnDataStore(group, uri=uri, kind="anndata-zarr", layer=layer)


def _quick_decoding() -> AbstractContextManager[object]:
    """Arrays opened inside are decoded by zarr's fused pipeline: 3 times the rate of its default, which
    makes coroutines for each chunk, at chunks of 32,768 numbers. A user's own choice of pipeline is kept."""
    if "Batched" not in zarr.config.get("codec_pipeline.path"):
        return nullcontext()
    return zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.FusedCodecPipeline"})


class AnnDataStore:
    """`CellStore` over an opened group with ``obs``, ``var`` and CSR or dense counts."""

    def __init__(self, group: Any, *, uri: str, kind: str, layer: str | None = None) -> None:
        self.uri = uri
        self.kind = kind
        _require_anndata(group, uri)
        self._obs = group["obs"]
        self._counts = _counts_element(group, layer, uri)
        self.features: Mapping[str, tuple[str, ...]] = {RNA: _names(group["var"])}
        cache = BlockCache()
        self._is_sparse = "indptr" in self._counts if _is_group(self._counts) else False
        if self._is_sparse:
            self._indptr = np.asarray(self._counts["indptr"][...], dtype=np.int64)
            self._data = BlockArray(self._counts["data"], "data", cache)
            self._indices = BlockArray(self._counts["indices"], "indices", cache)
            self.n_cells = len(self._indptr) - 1
        else:
            self._data = BlockArray(self._counts, "data", cache)
            self.n_cells = int(self._counts.shape[0])

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

    def read(self, rows: IntArray, modality: str = RNA) -> csr_matrix:
        n_features = len(self.features[modality])
        ascending = np.argsort(rows, kind="stable")
        is_sorted = bool((ascending[1:] > ascending[:-1]).all())
        counts = self._read_ascending(rows if is_sorted else rows[ascending], n_features)
        if is_sorted:
            return counts
        asked = np.empty_like(ascending)
        asked[ascending] = np.arange(len(rows))
        return counts[asked]

    def _read_ascending(self, rows: IntArray, n_features: int) -> csr_matrix:
        if not self._is_sparse:
            return csr_matrix(self._data.take(rows))
        begins, lengths = self._indptr[rows], self._indptr[rows + 1] - self._indptr[rows]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(begins - indptr[:-1], lengths) + np.arange(indptr[-1])
        # A file may hold indices of any type: numerical libraries want int32.
        indices = self._indices.take(places).astype(np.int32, copy=False)
        counts = csr_matrix((self._data.take(places), indices, indptr), shape=(len(rows), n_features))
        counts.sum_duplicates()
        return counts

    def identity(self) -> dict[str, Any]:
        stored = int(self._indptr[-1]) if self._is_sparse else None
        return {"cells": self.n_cells, "features": len(self.features[RNA]), "stored_values": stored}


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


def _names(frame: Any) -> tuple[str, ...]:
    return tuple(str(name) for name in read_elem(frame[frame.attrs["_index"]]))
