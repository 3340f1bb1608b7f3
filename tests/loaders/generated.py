"""Generated cells, made up, and atlases of them."""

from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from cfgen_scale.types import AtlasSchema, Covariate, GeneratedCells, Modality
from loaders.assembly import finish
from loaders.writer import PartialAtlas

SCHEMA = AtlasSchema(
    (Modality("rna", "negative_binomial", tuple(f"gene_{i}" for i in range(300))),),
    (Covariate("cell_type", ("B", "T")),),
)


def cells_of(n: int, seed: int, *, largest: int = 9) -> GeneratedCells:
    random = np.random.default_rng(seed)
    counts = random.integers(1, largest + 1, (n, 300)) * (random.random((n, 300)) < 0.1)
    return GeneratedCells(
        (csr_matrix(counts.astype(np.int32)),),
        random.integers(-1, 2, (n, 1)),
        random.normal(8, 0.1, (n, 1)).astype(np.float32),
        random.normal(size=(n, 5)).astype(np.float32),
    )


def write_atlas(out: Path, chunks: list[GeneratedCells], order: list[int]) -> Path:
    partial = PartialAtlas.beside(out)
    with partial.held():
        partial.begin({"plan": "a plan"})
        for index in order:
            partial.write_chunk(index, chunks[index], SCHEMA, group=index // 2)
        return finish(partial, out, n_chunks=len(chunks), schema=SCHEMA, provenance={"plan": "a plan"})
