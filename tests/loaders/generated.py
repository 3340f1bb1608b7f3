"""Generated cells, made up, and atlases of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from cfgen_scale.types import AtlasSchema, Covariate, GeneratedCells, Modality
from loaders.atlases.assembly import finish
from loaders.atlases.writer import PartialAtlas

CELL_TYPE = Covariate("cell_type", ("B", "T"))
RNA = Modality("rna", "negative_binomial", tuple(f"gene_{i}" for i in range(300)))
PROTEIN = Modality("protein", "negative_binomial", tuple(f"protein_{i}" for i in range(20)))
SCHEMA = AtlasSchema((RNA,), (CELL_TYPE,))
TWO_MODALITIES = AtlasSchema((RNA, PROTEIN), (CELL_TYPE,))


def cells_of(n: int, seed: int, *, largest: int = 9, schema: AtlasSchema = SCHEMA) -> GeneratedCells:
    random = np.random.default_rng(seed)
    counts = []
    for modality in schema.modalities:
        shape = (n, len(modality.features))
        drawn = random.integers(1, largest + 1, shape) * (random.random(shape) < 0.1)
        counts.append(csr_matrix(drawn.astype(np.int32)))
    return GeneratedCells(
        tuple(counts),
        random.integers(-1, 2, (n, 1)),
        random.normal(8, 0.1, (n, len(counts))).astype(np.float32),
        random.normal(size=(n, 5)).astype(np.float32),
    )


def latents_of(cells: GeneratedCells) -> GeneratedCells:
    return GeneratedCells((), cells.labels, cells.log_size_factor, cells.latent)


def begin_atlas(
    out: Path, chunks: Sequence[GeneratedCells], order: Sequence[int] = (), *, schema: AtlasSchema = SCHEMA
) -> PartialAtlas:
    """The work directory with all chunks written, two of them for each group of the request."""
    partial = PartialAtlas.beside(out)
    with partial.held():
        partial.begin(provenance_of(chunks))
        for index in order or range(len(chunks)):
            partial.write_chunk(index, chunks[index], schema, group=index // 2)
    return partial


def provenance_of(chunks: Sequence[GeneratedCells]) -> dict[str, object]:
    sizes = [len(chunk.labels) for chunk in chunks]
    return {"plan": {"request": [{"cells": sum(sizes[i : i + 2])} for i in range(0, len(sizes), 2)]}}


def write_atlas(
    out: Path,
    chunks: Sequence[GeneratedCells],
    order: Sequence[int] = (),
    *,
    schema: AtlasSchema = SCHEMA,
    provenance: Mapping[str, object] | None = None,
) -> Path:
    """The finished atlas; of latents alone if the chunks have no counts."""
    partial = begin_atlas(out, chunks, order, schema=schema)
    content = "counts" if chunks[0].counts else "latents"
    provenance = provenance or provenance_of(chunks)
    return finish(partial, out, n_chunks=len(chunks), schema=schema, provenance=provenance, content=content)
