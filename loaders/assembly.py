"""From the chunks of a `PartialAtlas` to one AnnData-Zarr that looks as if it had been written in one go.

Chunks are read one at a time and copied in runs of whole shards, so that memory does not grow with the
atlas but for obs (some tens of bytes a cell). The atlas is built inside the work directory and renamed
into place last. Nothing in it depends on when, where or by how many workers its chunks were written.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import zarr
from tqdm import tqdm

from cfgen_scale.types import AtlasSchema

from .layout import ShardAppender, consolidate, create_array, create_atlas, create_csr, write_frame
from .writer import ChunkFile, PartialAtlas, one_modality

LATENT_KEY = "X_cfgen"
PROVENANCE_KEY = "cfgen_scale"
OBS_COLUMNS = ("size_factor", "log_size_factor", "request_group", "request_chunk")


def check_writable(schema: AtlasSchema) -> None:
    """Raise ValueError if no atlas of this schema can be written (modalities, names of attributes)."""
    one_modality(schema)
    for covariate in schema.covariates:
        if covariate.name in OBS_COLUMNS:
            raise ValueError(
                f"the attribute {covariate.name!r} has the name of an obs column that generation writes "
                f"({', '.join(OBS_COLUMNS)}). Rename it in the training data."
            )


def finish(
    partial: PartialAtlas,
    out: str | Path,
    *,
    n_chunks: int,
    schema: AtlasSchema,
    provenance: Mapping[str, Any],
    progress: bool = False,
) -> Path:
    """Assemble the ``n_chunks`` chunks of ``partial`` into the atlas ``out``, then remove ``partial``.

    The atlas: X (N, G) CSR of unsigned counts; obs the attributes (categorical, untold = missing),
    size_factor, log_size_factor, request_group and request_chunk (places, from 0); var the features;
    obsm["X_cfgen"] (N, D) float32 latents; uns["cfgen_scale"] an entry of JSON text for each of
    ``provenance`` and the schema. Raises FileNotFoundError if a chunk is missing.
    """
    out = Path(out)
    building = partial.path / "atlas.zarr"
    shutil.rmtree(building, ignore_errors=True)
    root = create_atlas(building)
    obs = _write_cells(root, partial, n_chunks, schema, progress)
    write_frame(root, "obs", obs)
    write_frame(root, "var", pd.DataFrame(index=pd.Index(one_modality(schema).features, dtype=object)))
    documents = {**provenance, "schema": schema.to_json()}
    texts = {name: json.dumps(document, sort_keys=True) for name, document in documents.items()}
    anndata.io.write_elem(root["uns"], PROVENANCE_KEY, texts)
    consolidate(building)
    os.rename(building, out)
    shutil.rmtree(partial.path)
    return out


def read_provenance(out: str | Path) -> dict[str, Any]:
    """What ``finish`` wrote into uns of the atlas ``out``, parsed: the provenance given and the schema.

    Raises FileExistsError if ``out`` is something other than a generated atlas.
    """
    try:
        texts = anndata.io.read_elem(zarr.open_group(out, mode="r")["uns"])[PROVENANCE_KEY]
        return {name: json.loads(text) for name, text in texts.items()}
    except (zarr.errors.GroupNotFoundError, FileNotFoundError, KeyError, NotADirectoryError):
        raise FileExistsError(
            f"{out} exists and is not an atlas that was generated. Choose another path."
        ) from None


def _write_cells(
    root: zarr.Group, partial: PartialAtlas, n_chunks: int, schema: AtlasSchema, progress: bool
) -> pd.DataFrame:
    """Write X and obsm chunk by chunk; returns obs, which is gathered on the way."""
    sizes = [partial.chunk_size(index) for index in range(n_chunks)]
    n_cells, nnz = sum(s.cells for s in sizes), sum(s.nnz for s in sizes)
    shape = (n_cells, len(one_modality(schema).features))
    x = create_csr(root, "X", shape=shape, nnz=nnz, largest_count=max(s.largest for s in sizes))
    obsm = root.require_group("obsm")
    latent = create_array(obsm, LATENT_KEY, shape=(n_cells, sizes[0].latent), dtype=np.float32)
    data, indices, indptr = (ShardAppender(x[name]) for name in ("data", "indices", "indptr"))
    latents = ShardAppender(latent)
    indptr.append(np.zeros(1, dtype=np.int64))
    columns = _ObsColumns(n_cells, schema)
    row = n_before = 0
    with tqdm(total=n_cells, unit=" cells", desc="assembling", disable=not progress) as bar:
        for index, size in enumerate(sizes):
            chunk = partial.read_chunk(index)
            data.append(chunk.data)
            indices.append(chunk.indices)
            indptr.append(n_before + chunk.indptr[1:])
            latents.append(chunk.latent)
            columns.fill(slice(row, row + size.cells), index, chunk)
            row, n_before = row + size.cells, n_before + size.nnz
            bar.update(size.cells)
    for appender in (data, indices, indptr, latents):
        appender.flush()
    return columns.frame()


class _ObsColumns:
    """obs of the atlas while it is gathered, chunk by chunk."""

    def __init__(self, n_cells: int, schema: AtlasSchema) -> None:
        self._schema = schema
        self._labels = np.zeros((n_cells, len(schema.covariates)), dtype=np.int32)
        self._log_size_factor = np.zeros(n_cells, dtype=np.float32)
        self._group, self._chunk = np.zeros(n_cells, dtype=np.int32), np.zeros(n_cells, dtype=np.int32)

    def fill(self, rows: slice, index: int, chunk: ChunkFile) -> None:
        self._labels[rows] = chunk.labels
        self._log_size_factor[rows] = chunk.log_size_factor[:, 0]
        self._group[rows], self._chunk[rows] = chunk.group, index

    def frame(self) -> pd.DataFrame:
        n = len(self._group)
        width = len(str(max(n - 1, 0)))
        frame = pd.DataFrame(index=pd.Index([f"cell_{i:0{width}d}" for i in range(n)], dtype=object))
        for k, covariate in enumerate(self._schema.covariates):
            categories = pd.CategoricalDtype(list(covariate.categories))
            frame[covariate.name] = pd.Categorical.from_codes(self._labels[:, k], dtype=categories)
        # In float64 and rounded once, so that no vectorised float32 exp decides the last bit.
        frame["size_factor"] = np.exp(self._log_size_factor.astype(np.float64)).astype(np.float32)
        frame["log_size_factor"] = self._log_size_factor
        frame["request_group"], frame["request_chunk"] = self._group, self._chunk
        return frame
