"""Where everything is in a generated atlas, and the atlas laid out: all of it but the numbers of its cells.

One modality: an AnnData-Zarr. Several: a MuData-Zarr, whose root has obs, obsm and uns, and ``mod/NAME`` an
AnnData each with X, var and the names of the cells. Latents alone: an AnnData without X.

obs        the attributes (categorical, untold = missing), size_factor and log_size_factor, with ``:NAME``
           behind where several modalities have one, request_group and request_chunk (places, from 0)
obsm       X_cfgen (N, D) float32, the latents
var        the features; nothing else is said of them
uns        cfgen_scale: JSON texts, those of the provenance and the schema
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from cfgen_scale.types import AtlasSchema, IntArray

from ..layout import (
    consolidate,
    create_atlas,
    create_csr,
    create_of_cells,
    write_array,
    write_element,
    write_frame,
)
from .chunk_files import ChunkTable, Content

LATENT_KEY = "X_cfgen"
PROVENANCE_KEY = "cfgen_scale"
NAMES = "_index"
LOG = "log_"  # before the name of a column: that of its logarithm
GROUP_COLUMN, CHUNK_COLUMN = "request_group", "request_chunk"


@dataclass(frozen=True)
class CellSlab:
    """What obs and obsm say of B cells that lie together, the first being number ``first`` of the atlas.

    labels (B, K) int64, -1 = untold; group and chunk (B,) int32, their places in the request and the plan;
    log_size_factor (B, S) and latent (B, D) float32.
    """

    first: int
    labels: IntArray
    log_size_factor: NDArray[np.float32]
    group: NDArray[np.int32]
    chunk: NDArray[np.int32]
    latent: NDArray[np.float32]

    @staticmethod
    def empty(first: int, n_cells: int, schema: AtlasSchema, latent: int) -> "CellSlab":
        """Room for cells, to be filled."""
        return CellSlab(
            first,
            np.empty((n_cells, len(schema.covariates)), dtype=np.int64),
            np.empty((n_cells, len(schema.counted)), dtype=np.float32),
            np.empty(n_cells, dtype=np.int32),
            np.empty(n_cells, dtype=np.int32),
            np.empty((n_cells, latent), dtype=np.float32),
        )


def check_writable(schema: AtlasSchema) -> None:
    """Raise ValueError if no atlas of this schema can be written, for the names of its attributes."""
    ours = [
        NAMES,
        *(f"{log}{name}" for name in schema.size_factor_columns for log in ("", LOG)),
        GROUP_COLUMN,
        CHUNK_COLUMN,
    ]
    for covariate in schema.covariates:
        if covariate.name in ours:
            raise ValueError(
                f"the attribute {covariate.name!r} has the name of an obs column that generation writes "
                f"({', '.join(ours)}). Rename it in the training data."
            )
    for what, names in (("attribute", schema.covariates), ("modality", schema.modalities)):
        for one in names:
            if "/" in one.name:
                raise ValueError(
                    f"the {what} {one.name!r} has a slash in its name, which parts folders on Zarr. Rename "
                    f"it in the training data."
                )


def names_of_cells(first: int, count: int, n_cells: int) -> NDArray[Any]:
    """Names (count,) of the cells from number ``first`` on of an atlas of ``n_cells``."""
    width = len(str(max(n_cells - 1, 0)))
    return np.array([f"cell_{i:0{width}d}" for i in range(first, first + count)], dtype=object)


def obs_frame(slab: CellSlab, schema: AtlasSchema, n_cells: int) -> pd.DataFrame:
    """obs of some cells of an atlas of ``n_cells``."""
    frame = pd.DataFrame(index=pd.Index(names_of_cells(slab.first, len(slab.group), n_cells), dtype=object))
    for k, covariate in enumerate(schema.covariates):
        categories = pd.CategoricalDtype(pd.Index(covariate.categories, dtype=object))
        frame[covariate.name] = pd.Categorical.from_codes(slab.labels[:, k], dtype=categories)
    for s, factor in enumerate(schema.size_factor_columns):
        log_size_factor = slab.log_size_factor[:, s]
        # In float64 and rounded once, so that no vectorised float32 exp decides the last bit.
        frame[factor] = np.exp(log_size_factor.astype(np.float64)).astype(np.float32)
        frame[f"{LOG}{factor}"] = log_size_factor
    frame[GROUP_COLUMN], frame[CHUNK_COLUMN] = slab.group, slab.chunk
    return frame


def annotations_path(schema: AtlasSchema, modality: int, content: Content) -> str:
    """The AnnData of one modality within the atlas: "" is the root."""
    is_mudata = len(schema.modalities) > 1 and content == "counts"
    return f"mod/{schema.modalities[modality].name}" if is_mudata else ""


def counts_path(schema: AtlasSchema, modality: int) -> str:
    """The counts of one modality within an atlas that has counts."""
    return f"{annotations_path(schema, modality, 'counts')}/X".lstrip("/")


def obs_paths(schema: AtlasSchema, content: Content) -> list[str]:
    """The obs frames of an atlas, that of the root first; the others hold names of cells alone."""
    of_modalities = [annotations_path(schema, m, content) for m in range(len(schema.modalities))]
    return ["obs", *(f"{path}/obs" for path in of_modalities if path)]


@dataclass(frozen=True)
class Extent:
    """How large the arrays of an atlas are: N cells, D latent dimensions; non-zeros and largest count of each
    modality, () for an atlas of latents alone."""

    n_cells: int
    latent: int
    nnz: tuple[int, ...]
    largest: tuple[int, ...]

    @staticmethod
    def of(table: ChunkTable, content: Content) -> "Extent":
        """Of the atlas that is made of those chunks."""
        return Extent(
            int(table.cells.sum()),
            table.latent,
            tuple(table.nnz.sum(axis=0).tolist()),
            tuple(table.largest.max(axis=0).tolist()) if content == "counts" else (),
        )

    @property
    def content(self) -> Content:
        return "counts" if self.nnz else "latents"


def lay_out(path: Path, schema: AtlasSchema, extent: Extent, provenance: Mapping[str, Any]) -> None:
    """Write the atlas at ``path`` whose arrays of cells and counts are as long as they will be, and empty."""
    root = create_atlas(path)
    _lay_out_cells(root, schema, extent)
    if extent.content == "counts" and len(schema.modalities) > 1:
        _lay_out_modalities(root, schema, extent)
    else:
        only = schema.modalities[0].features if len(schema.modalities) == 1 else ()
        write_frame(root, "var", _names_alone(only))
        if extent.nnz:
            _lay_out_counts(root, schema, extent, 0)
    documents = {**provenance, "schema": schema.to_json()}
    texts = {name: json.dumps(document, sort_keys=True) for name, document in documents.items()}
    write_element(cast(zarr.Group, root["uns"]), PROVENANCE_KEY, texts)
    consolidate(path)


def _lay_out_cells(root: zarr.Group, schema: AtlasSchema, extent: Extent) -> None:
    """obs and obsm of the root."""
    n_cells = extent.n_cells
    _write_long_frame(root, "obs", obs_frame(CellSlab.empty(0, 0, schema, 0), schema, n_cells), n_cells)
    obsm = root.require_group("obsm")
    create_of_cells(obsm, LATENT_KEY, shape=(n_cells, extent.latent), dtype=np.float32)


def _lay_out_counts(group: zarr.Group, schema: AtlasSchema, extent: Extent, m: int) -> None:
    create_csr(
        group,
        "X",
        shape=(extent.n_cells, len(schema.modalities[m].features)),
        nnz=extent.nnz[m],
        largest_count=extent.largest[m],
        of_cells=True,
    )


def _lay_out_modalities(root: zarr.Group, schema: AtlasSchema, extent: Extent) -> None:
    """The rest of a MuData: an AnnData for each modality, and which features of all are whose."""
    root.attrs.update({"encoding-type": "MuData", "encoding-version": "0.1.0", "axis": 0})
    mod = root.create_group("mod", attributes={"mod-order": [m.name for m in schema.modalities]})
    owners = np.repeat(np.arange(len(schema.modalities)), [len(m.features) for m in schema.modalities])
    write_frame(root, "var", _names_alone(tuple(f for m in schema.modalities for f in m.features)))
    for name in ("obsmap", "varmap"):
        write_element(root, name, {})
    for m, modality in enumerate(schema.modalities):
        group = create_atlas(mod, modality.name)
        _lay_out_counts(group, schema, extent, m)
        _write_long_frame(group, "obs", _names_alone(()), extent.n_cells)
        write_frame(group, "var", _names_alone(modality.features))
        places = np.where(owners == m, np.cumsum(owners == m), 0).astype(np.uint32)
        write_array(cast(zarr.Group, root["varm"]), modality.name, (owners == m)[:, None])
        write_array(cast(zarr.Group, root["varmap"]), modality.name, places)
        obsm, obsmap = (cast(zarr.Group, root[name]) for name in ("obsm", "obsmap"))
        create_of_cells(obsm, modality.name, shape=(extent.n_cells, 1), dtype=np.bool_)
        create_of_cells(obsmap, modality.name, shape=(extent.n_cells,), dtype=np.uint32)


def _names_alone(names: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(index=pd.Index(names, dtype=object))


def _write_long_frame(group: zarr.Group, name: str, frame: pd.DataFrame, n_cells: int) -> None:
    """A data frame of ``n_cells`` rows as anndata lays out the empty ``frame``, with columns to be filled."""
    write_frame(group, name, frame)
    written = cast(zarr.Group, group[name])
    for column in [NAMES, *frame]:
        is_categorical = column != NAMES and isinstance(frame[column].dtype, pd.CategoricalDtype)
        parent = cast(zarr.Group, written[column]) if is_categorical else written
        leaf = "codes" if is_categorical else column
        attributes, dtype = dict(parent[leaf].attrs), cast(zarr.Array[Any], parent[leaf]).dtype
        del parent[leaf]
        create_of_cells(parent, leaf, shape=(n_cells,), dtype=dtype).attrs.update(attributes)


def cell_arrays(slab: CellSlab, schema: AtlasSchema, extent: Extent) -> dict[str, NDArray[Any]]:
    """What a slab of cells puts in each array of the atlas that has an entry a cell: its path -> (B, ...)."""
    frame = obs_frame(slab, schema, extent.n_cells)
    names = frame.index.to_numpy(dtype=object)
    arrays: dict[str, NDArray[Any]] = {f"{path}/{NAMES}": names for path in obs_paths(schema, extent.content)}
    for column in frame:
        if isinstance(frame[column].dtype, pd.CategoricalDtype):
            arrays[f"obs/{column}/codes"] = frame[column].cat.codes.to_numpy()
        else:
            arrays[f"obs/{column}"] = frame[column].to_numpy()
    arrays[f"obsm/{LATENT_KEY}"] = slab.latent
    if len(obs_paths(schema, extent.content)) > 1:
        places: IntArray = np.arange(slab.first, slab.first + len(names)) + 1
        for modality in schema.modalities:
            arrays[f"obsm/{modality.name}"] = np.ones((len(names), 1), dtype=np.bool_)
            arrays[f"obsmap/{modality.name}"] = places
    return arrays
