"""TileDB-SOMA experiments, read in place from a path or any URI that TileDB reaches (s3, gcs, azure).

Regions, credentials and the like are TileDB's settings, taken from its environment variables:
``vfs.s3.region`` is TILEDB_VFS_S3_REGION, for a public bucket TILEDB_VFS_S3_NO_SIGN_REQUEST=true.
"""

import os
from typing import Any

import pandas as pd
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.stores.identity import digest_of_names
from loaders.stores.soma_errors import first_line, readable
from loaders.stores.soma_frames import (
    CELL_NAMES,
    FEATURE_NAMES,
    annotations,
    columns_of,
    features_of,
    name_column,
    selected_joinids,
)
from loaders.stores.soma_identity import digest_of_sample
from loaders.stores.soma_slabs import SLAB_CELLS, CountSlabs
from loaders.stores.store import CellStore, categorical, pick_layer, require_column

DEFAULT_MEASUREMENT = "RNA"
BUFFER_BYTES = 20 * 2**20  # of a column of a result; the allocator keeps memory of less than 32 MiB
TILES_BYTES = 512 * 2**20  # of tiles, compressed and decoded, within TileDB; by itself it takes 2 GB more
KEPT_BYTES = 2**30  # of decoded cells
KEPT_BYTES_OF_COUNT = 6  # index and value of a decoded count, about


def is_experiment(uri: str) -> bool:
    """Whether TileDB finds a SOMA experiment at ``uri``; False too where it cannot reach it."""
    import tiledbsoma

    return bool(tiledbsoma.Experiment.exists(uri, context=_context()))


def open_soma(
    uri: str,
    *,
    layer: str | None = None,
    measurement: str | None = None,
    obs_filter: str | None = None,
    feature_column: str | None = None,
) -> CellStore:
    """Reader of the SOMA experiment at ``uri``, an absolute path or URI; options as in `open_store`.

    Raises ValueError for what is no experiment, or an option that does not fit it; OSError for one that is
    damaged.
    """
    import tiledbsoma

    try:
        experiment = tiledbsoma.Experiment.open(uri, context=_context())
    except tiledbsoma.SOMAError as error:
        raise ValueError(
            f"{uri} cannot be opened as a SOMA experiment: {first_line(error)} Give the experiment itself, "
            f"which holds obs and ms, not a part of it."
        ) from error
    with readable(uri):
        return SomaStore(
            experiment,
            uri=uri,
            measurement=measurement or DEFAULT_MEASUREMENT,
            layer=layer,
            obs_filter=obs_filter,
            feature_column=feature_column,
        )


class SomaStore:
    """`CellStore` over the obs, var and one X layer of an experiment; rows are joinids in ascending order."""

    kind = "soma"
    slab_cells = SLAB_CELLS

    def __init__(
        self,
        experiment: Any,
        *,
        uri: str,
        measurement: str,
        layer: str | None = None,
        obs_filter: str | None = None,
        feature_column: str | None = None,
    ) -> None:
        self.uri = uri
        source = _measurement(experiment, measurement, uri)
        layer = _layer(source, layer, uri)
        counts = self._counts = source.X[layer]
        # What is opened through an experiment closes with it.
        self._experiment = experiment
        self._obs = experiment.obs
        self._obs_filter = obs_filter
        self._joinids = selected_joinids(self._obs, obs_filter, uri)
        self.n_cells = len(self._joinids)
        self._cell_names = name_column(self._obs, CELL_NAMES)
        feature_column = feature_column or name_column(source.var, FEATURE_NAMES)
        columns, names = features_of(source.var, feature_column, uri)
        self.features: tuple[str, ...] = names
        _require_within(counts, self._joinids, columns, uri)
        self._slabs = CountSlabs(counts, self._joinids, columns, budget_bytes=KEPT_BYTES)
        cells, stored_values = max(int(counts.shape[0]), 1), _stored_values(counts)
        self.kept_cells = KEPT_BYTES * cells // (KEPT_BYTES_OF_COUNT * max(stored_values, 1))
        self._identity = {
            "cells": self.n_cells,
            "features": len(names),
            "stored_values": stored_values,
            "matrix": list(counts.shape),
            "names": digest_of_names(names),
            "measurement": measurement,
            "layer": layer,
            "obs_filter": obs_filter,
            "feature_column": feature_column,
        }

    @property
    def obs_columns(self) -> tuple[str, ...]:
        return tuple(name for name in columns_of(self._obs) if name != self._cell_names)

    def obs_column(self, name: str) -> pd.Categorical:
        require_column(name, self.obs_columns, self.uri)
        return categorical(self._annotations(name, self._joinids).array)

    def obs_names(self, start: int, stop: int) -> NDArray[Any]:
        if self._cell_names is None:
            return self._joinids[start:stop].astype(str).astype(object)
        return self._annotations(self._cell_names, self._joinids[start:stop]).to_numpy(dtype=object)

    def read(self, rows: IntArray, *, dtype: DTypeLike | None = None) -> csr_matrix:
        return self._slabs.take(rows, dtype=dtype)

    def slab_of(self, rows: IntArray) -> IntArray:
        return self._slabs.slab_of(rows)

    def identity(self) -> dict[str, Any]:
        return {**self._identity, "sample": digest_of_sample(self._counts, self._joinids)}

    def _annotations(self, column: str, joinids: IntArray) -> pd.Series:
        return annotations(self._obs, column, joinids, value_filter=self._obs_filter)


def _stored_values(counts: Any) -> int:
    """How many values are stored, those counted twice that a later write replaced.

    What TileDB-SOMA's own exports go by; ``nnz`` may read the matrix to tell, 4 s for 200 million values.
    """
    by_fragments: int | None = counts._handle.fragment_cell_count()
    return int(counts.nnz if by_fragments is None else by_fragments)


def _context() -> Any:
    import tiledbsoma

    settings = {"soma.init_buffer_bytes": str(BUFFER_BYTES)}
    if "TILEDB_SM_MEM_TOTAL_BUDGET" not in os.environ:
        settings["sm.mem.total_budget"] = str(TILES_BYTES)
    return tiledbsoma.SOMATileDBContext(tiledb_config=settings)


def _measurement(experiment: Any, name: str, uri: str) -> Any:
    known = tuple(sorted(experiment.ms)) if "ms" in experiment else ()
    if name not in known:
        raise ValueError(
            f"{uri} has no measurement {name!r}. Its measurements: {', '.join(known) or 'none'}."
        )
    return experiment.ms[name]


def _layer(measurement: Any, layer: str | None, uri: str) -> str:
    """The X layer asked for, or the only one; it must be sparse."""
    layers = tuple(sorted(measurement.X)) if "X" in measurement else ()
    if layer is None and len(layers) > 1:
        raise ValueError(
            f"{uri} has {len(layers)} layers in X: name the one that holds raw counts. "
            f"Its layers: {', '.join(layers)}."
        )
    pick_layer(layer, layers, has_x=bool(layers), uri=uri)
    layer = layer or layers[0]
    kind = measurement.X[layer].soma_type
    if kind != "SOMASparseNDArray":
        raise ValueError(f"layer {layer!r} of {uri} is a {kind}: counts are read from a SOMASparseNDArray.")
    return layer


def _require_within(counts: Any, cells: IntArray, features: IntArray, uri: str) -> None:
    for what, joinids, extent in zip(("obs", "var"), (cells, features), counts.shape, strict=True):
        if joinids[-1] >= extent:
            raise ValueError(
                f"{uri}: {what} has joinid {joinids[-1]} and the matrix of counts ends at {extent - 1}. "
                f"The experiment is being written or was not resized as a whole."
            )
