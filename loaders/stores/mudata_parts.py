"""Modalities of a MuData, .h5mu or MuData-Zarr: each is an AnnData in its group ``mod``.

A part is named by the path ``FILE.h5mu/mod/NAME`` or ``STORE.zarr/mod/NAME``. Its cells have the annotations
of the part itself and those of the root, found by name. The mudata package itself is not needed: what it
writes are groups of the encodings of anndata.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.stores.anndata_store import AnnDataStore
from loaders.stores.csr_arrays import CsrCaches
from loaders.stores.hdf5 import open_hdf5
from loaders.stores.store import CellStore, categorical, names_of_all, require_column

ENCODING = "MuData"
H5MU = ".h5mu"
MOD = "/mod/"


def modalities_of(source: str | Path) -> tuple[str, ...]:
    """Names of the modalities of a MuData at a path or URL, in its order; empty if it is none."""
    if Path(source).suffix == H5MU and Path(source).is_file():
        return _names(open_hdf5(str(source)))
    root = _zarr_root(str(source).rstrip("/"))
    return () if root is None else _names(root)


def split_part(uri: str) -> tuple[str, str] | None:
    """(place of the whole, name of the part) where ``uri`` is the path of a part, else None."""
    whole, mod, name = uri.rstrip("/").rpartition(MOD)
    return (whole, name) if mod and name and "/" not in name else None


def open_h5mu(
    path: str, name: str, *, layer: str | None, feature_column: str | None, caches: CsrCaches | None
) -> CellStore:
    """Reader of the modality ``name``, which it has, of a .h5mu file."""
    root = open_hdf5(path)
    part = AnnDataStore(
        root["mod"][name],
        uri=f"{path}{MOD}{name}",
        kind="h5mu",
        layer=layer,
        feature_column=feature_column,
        caches=caches,
    )
    return MuDataPart(part, root["obs"])


def with_root(store: CellStore) -> CellStore:
    """The store of a part of a MuData-Zarr with the annotations of the root; any other store as it is."""
    part = split_part(store.uri)
    root = _zarr_root(part[0]) if part else None
    return store if root is None or "obs" not in root else MuDataPart(store, root["obs"])


def require_part(names: Sequence[str], name: str, uri: str) -> None:
    """Raise ValueError listing the modalities there are unless ``name`` is one."""
    if name not in names:
        known = ", ".join(f"{uri}{MOD}{other}" for other in names) or "none"
        raise ValueError(f"{uri} has no modality {name!r}. Name one of those it has: {known}.")


class MuDataPart:
    """`CellStore` over a modality with the annotations of the root ``obs`` behind its own."""

    def __init__(self, store: CellStore, obs: Any) -> None:
        self.uri, self.kind = store.uri, store.kind
        self.n_cells, self.features = store.n_cells, store.features
        self.slab_cells, self.kept_cells = store.slab_cells, store.kept_cells
        self._store = store
        self._obs = obs

    @property
    def obs_columns(self) -> tuple[str, ...]:
        own = self._store.obs_columns
        shared = (str(name) for name in self._obs.attrs["column-order"])
        return (*own, *(name for name in shared if name not in own))

    def obs_column(self, name: str) -> pd.Categorical:
        if name in self._store.obs_columns:
            return self._store.obs_column(name)
        require_column(name, self.obs_columns, self.uri)
        column = categorical(read_elem(self._obs[name]))
        codes = np.append(column.codes, -1)[self._places]  # the last one answers for a cell the root lacks
        return categorical(pd.Categorical.from_codes(codes, categories=column.categories))

    def obs_names(self, start: int, stop: int) -> NDArray[Any]:
        return self._store.obs_names(start, stop)

    def read(self, rows: IntArray, *, dtype: DTypeLike | None = None) -> csr_matrix:
        return self._store.read(rows, dtype=dtype)

    def slab_of(self, rows: IntArray) -> IntArray:
        return self._store.slab_of(rows)

    def identity(self) -> dict[str, Any]:
        return self._store.identity()

    @cached_property
    def _places(self) -> IntArray:
        """(n_cells,) place of each cell in the root, -1 where it is not there."""
        index = pd.Index(read_elem(self._obs[self._obs.attrs["_index"]]), dtype=object)
        twice = index[index.duplicated()]
        if len(twice):
            raise ValueError(
                f"the root of {self.uri} has {len(twice)} names of cells more than once, first {twice[0]!r}: "
                f"its annotations are found by them. Make them unique."
            )
        names = pd.Index(names_of_all(self._store), dtype=object)
        return np.asarray(index.get_indexer(names), dtype=np.int64)


def _names(root: Any) -> tuple[str, ...]:
    """Names in ``mod``, in the order that is recorded."""
    if "mod" not in root:
        return ()
    order = [str(name) for name in root["mod"].attrs.get("mod-order", ())]
    found = sorted(root["mod"])
    return tuple([name for name in order if name in found] + [name for name in found if name not in order])


def _zarr_root(uri: str) -> Any:
    """The group of a MuData-Zarr; None for anything else, and for what cannot be read: who opens it as
    something else says why."""
    is_url = "://" in uri
    if not (uri.endswith(".zarr") if is_url else Path(uri).is_dir()):
        return None
    try:
        group = zarr.open_group(uri, mode="r")
    except (OSError, ImportError, ValueError):
        return None
    return group if group.attrs.get("encoding-type") == ENCODING else None
