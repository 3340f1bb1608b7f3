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
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.blocks import CACHE_BYTES, UNCHUNKED_BLOCK, BlockArray, BlockCache
from loaders.gather import ascend_in_rows
from loaders.layout import index_dtype
from loaders.mapped import MappedArray, can_be_mapped
from loaders.runs import Runs
from loaders.store import RNA, CellStore, categorical, pick_layer, require_column


def open_h5ad(path: str, *, layer: str | None = None) -> CellStore:
    """Reader of a .h5ad file. Raises ValueError if it is none."""
    try:
        group = h5py.File(path, mode="r")
    except OSError as error:
        raise ValueError(f"{path} is not an HDF5 file that can be opened: {error}.") from error
    return AnnDataStore(group, uri=str(Path(path).absolute()), kind="h5ad", layer=layer)


def open_zarr(path: str, *, layer: str | None = None, is_canonical: bool = False) -> "AnnDataStore":
    """Reader of an AnnData-Zarr v2 or v3 at a path or URL. Raises ValueError if it is none."""
    uri = path if "://" in path else str(Path(path).absolute())
    with _quick_decoding():
        try:
            group = zarr.open_group(path, mode="r")
        except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
            raise ValueError(f"{uri} is not an AnnData store: there is no Zarr group in it.") from error
        return AnnDataStore(group, uri=uri, kind="anndata-zarr", layer=layer, is_canonical=is_canonical)


def _quick_decoding() -> AbstractContextManager[object]:
    """Arrays opened inside are decoded by zarr's fused pipeline: 3 times the rate of its default, which
    makes coroutines for each chunk, at chunks of 32,768 numbers. A user's own choice of pipeline is kept."""
    if "Batched" not in zarr.config.get("codec_pipeline.path"):
        return nullcontext()
    return zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.FusedCodecPipeline"})


class AnnDataStore:
    """`CellStore` over an opened group with ``obs``, ``var`` and CSR or dense counts.

    ``is_canonical`` says that the genes of every cell are known to ascend, and are not looked at again.
    """

    def __init__(
        self, group: Any, *, uri: str, kind: str, layer: str | None = None, is_canonical: bool = False
    ) -> None:
        self.uri = uri
        self.kind = kind
        self._is_canonical = is_canonical
        _require_anndata(group, uri)
        self._obs = group["obs"]
        self._counts = _counts_element(group, layer, uri)
        self.features: Mapping[str, tuple[str, ...]] = {RNA: _names(group["var"])}
        self._is_sparse = "indptr" in self._counts if _is_group(self._counts) else False
        if self._is_sparse:
            self._indptr = np.asarray(self._counts["indptr"][...], dtype=np.int64)
            self._data = _elements(self._counts, "data", uri)
            self._indices = _elements(self._counts, "indices", uri)
            _require_row_pointers(self._indptr, self._counts, uri)
            self.n_cells = len(self._indptr) - 1
            self.slab_cells, self.kept_cells = self._decoding()
        else:
            self._dense = BlockArray(self._counts, "X", BlockCache(), uri=uri)
            self.n_cells = int(self._counts.shape[0])
            self.slab_cells = int((self._counts.chunks or (UNCHUNKED_BLOCK,))[0])
            row_bytes = len(self.features[RNA]) * self._dense.dtype.itemsize
            self.kept_cells = CACHE_BYTES // max(row_bytes, 1)

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

    def read(self, rows: IntArray, modality: str = RNA, *, dtype: DTypeLike | None = None) -> csr_matrix:
        """As `CellStore.read`; counts are cast to ``dtype`` on the way.

        Raises OSError or ValueError naming the chunk that is missing, cannot be read or is corrupt.
        """
        n_features = len(self.features[modality])
        if not self._is_sparse:
            return self._read_dense(rows, dtype)
        runs, ends = Runs.of_rows(self._indptr, rows)
        of_indices = index_dtype(int(ends[-1]), n_features)
        indices = np.empty(ends[-1], dtype=of_indices)
        data = np.empty(ends[-1], dtype=dtype or self._data.dtype)
        self._indices.gather(runs, indices, limit=n_features)
        self._data.gather(runs, data)
        counts = csr_matrix((data, indices, ends.astype(of_indices)), shape=(len(rows), n_features))
        if self._is_canonical or ascend_in_rows(indices, ends):
            counts.has_canonical_format = True
        else:
            counts.sum_duplicates()
        return counts

    def _read_dense(self, rows: IntArray, dtype: DTypeLike | None) -> csr_matrix:
        places, of_row = np.unique(rows, return_inverse=True)
        return csr_matrix(self._dense.take(places)[of_row], dtype=dtype)

    def slab_of(self, rows: IntArray) -> IntArray:
        if self.slab_cells == 1:
            return rows
        # Of the chunk in which a cell begins; only its last cell reaches into the next.
        return self._indptr[rows] // self._chunk if self._is_sparse else rows // self.slab_cells

    def _decoding(self) -> tuple[int, int]:
        """Cells of a chunk, and cells that are kept decoded, if all had as many counts."""
        parts = (self._data, self._indices)
        self._chunk = max((part.block for part in parts if isinstance(part, BlockArray)), default=1)
        if self._chunk == 1:
            return 1, self.n_cells
        counts_of_cell = max(int(self._indptr[-1]) / max(self.n_cells, 1), 1)
        kept_bytes = sum(part.dtype.itemsize for part in parts) * counts_of_cell
        return max(int(self._chunk / counts_of_cell), 1), int(CACHE_BYTES / kept_bytes)

    def identity(self) -> dict[str, Any]:
        stored = int(self._indptr[-1]) if self._is_sparse else None
        return {"cells": self.n_cells, "features": len(self.features[RNA]), "stored_values": stored}


def _elements(counts: Any, name: str, uri: str) -> MappedArray | BlockArray:
    """The reader of ``data`` or ``indices``: mapped where the chunks are raw files, else chunk by chunk."""
    array = counts[name]
    if can_be_mapped(array):
        return MappedArray(array)
    # A cache for each, so that the memory of a chunk that leaves fits the one that comes.
    both = counts["data"].dtype.itemsize + counts["indices"].dtype.itemsize
    return BlockArray(array, name, BlockCache(CACHE_BYTES * array.dtype.itemsize // both), uri=uri)


def _require_row_pointers(indptr: IntArray, counts: Any, uri: str) -> None:
    """Raise ValueError unless row pointers lie within ``data`` and ``indices``: reading relies on it."""
    stored = min(counts["data"].shape[0], counts["indices"].shape[0])
    if not len(indptr) or indptr[0] < 0 or indptr[-1] > stored or (np.diff(indptr) < 0).any():
        raise ValueError(
            f"indptr of {uri} is corrupt: it does not rise from 0 to the {stored:,} stored values. Copy or "
            f"write the store again."
        )


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
