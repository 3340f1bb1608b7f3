"""The chunks of an atlas that is being generated: a safetensors file each, whose name says how much is in it.

``000017-512-50-51234.37.safetensors`` is chunk 17: 512 cells with latents of 50 dimensions and, for each
modality, 51,234 non-zeros of which the largest is 37. An atlas is laid out from the names alone, since to
open 200,000 files takes minutes; a shard takes from a file only the range that it needs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy.sparse import csr_matrix

from cfgen_scale.types import AtlasSchema, GeneratedCells, IntArray

from ..layout import narrowest_unsigned

Content = Literal["counts", "latents"]
CHUNKS_OF_A_FOLDER = 1_000
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class ChunkSize:
    """What the atlas must know of a chunk before any is copied.

    cells B; latent, the dimensions D; nnz and largest, of each modality its non-zeros and its largest count,
    () where the chunk has latents alone.
    """

    index: int
    cells: int
    latent: int
    nnz: tuple[int, ...]
    largest: tuple[int, ...]

    @property
    def name(self) -> str:
        """All of it in the name of a file, without its suffix."""
        counts = [f"{n}.{most}" for n, most in zip(self.nnz, self.largest, strict=True)]
        return "-".join([f"{self.index:06d}", str(self.cells), str(self.latent), *counts])

    @property
    def file(self) -> Path:
        """The file of the chunk, relative to the folder of all."""
        return folder_of(self.index) / f"{self.name}{SUFFIX}"

    @staticmethod
    def of_name(name: str) -> "ChunkSize":
        """The inverse of ``name``, also of the name of the file."""
        index, cells, latent, *counts = name.removesuffix(SUFFIX).split("-")
        pairs = [pair.split(".") for pair in counts]
        return ChunkSize(
            int(index),
            int(cells),
            int(latent),
            tuple(int(nnz) for nnz, _ in pairs),
            tuple(int(largest) for _, largest in pairs),
        )


@dataclass(frozen=True)
class ChunkTable:
    """The sizes of all n chunks of an atlas, in order, of M modalities (0 if there are latents alone).

    cells (n,), nnz and largest (n, M): see `ChunkSize`; latent D, the same for all.
    """

    cells: IntArray
    nnz: IntArray
    largest: IntArray
    latent: int

    @staticmethod
    def of(sizes: Sequence[ChunkSize]) -> "ChunkTable":
        return ChunkTable(
            cells=np.array([size.cells for size in sizes], dtype=np.int64),
            nnz=np.array([size.nnz for size in sizes], dtype=np.int64),
            largest=np.array([size.largest for size in sizes], dtype=np.int64),
            latent=sizes[0].latent,
        )

    def size(self, index: int) -> ChunkSize:
        """Of one chunk."""
        nnz, largest = tuple(self.nnz[index].tolist()), tuple(self.largest[index].tolist())
        return ChunkSize(index, int(self.cells[index]), self.latent, nnz, largest)

    def sizes(self) -> Iterator[ChunkSize]:
        """Of all chunks in order."""
        return map(self.size, range(len(self.cells)))


def folder_of(index: int) -> Path:
    """The folder of a chunk's file, relative to the folder of all: no folder has more than 1,000 files."""
    return Path(f"{index // CHUNKS_OF_A_FOLDER:04d}")


def encode_chunk(
    index: int, cells: GeneratedCells, schema: AtlasSchema, *, group: NDArray[np.int32] | int
) -> tuple[ChunkSize, bytes]:
    """The size and the content of the file of a chunk. Raises ValueError if the cells do not fit the schema.

    ``group`` is the place in the request of each cell (B,), or of all. The file holds group (B,) int32;
    labels (B, K) int32, -1 = untold; log_size_factor (B, S) and latent (B, D) float32; and for modality m
    the CSR arrays data.m, indices.m, narrow and unsigned, and indptr.m int64.
    """
    counts = _checked(cells, schema)
    largest = [int(matrix.data.max(initial=0)) for matrix in counts]
    arrays: dict[str, NDArray[Any]] = {
        "group": np.array(np.broadcast_to(group, len(cells.labels)), dtype=np.int32),
        "labels": np.ascontiguousarray(cells.labels, dtype=np.int32),
        "log_size_factor": np.ascontiguousarray(cells.log_size_factor, dtype=np.float32),
        "latent": np.ascontiguousarray(cells.latent, dtype=np.float32),
    }
    for m, matrix in enumerate(counts):
        arrays[f"data.{m}"] = matrix.data.astype(narrowest_unsigned(largest[m]))
        arrays[f"indices.{m}"] = matrix.indices.astype(narrowest_unsigned(matrix.shape[1]))
        arrays[f"indptr.{m}"] = matrix.indptr.astype(np.int64)
    nnz = tuple(int(matrix.nnz) for matrix in counts)
    size = ChunkSize(index, len(cells.labels), cells.latent.shape[1], nnz, tuple(largest))
    return size, save(arrays)


@contextmanager
def opened_chunk(path: Path) -> Iterator[Any]:
    """A chunk's file, of which ``get_slice(name)[begin:end]`` reads a range and ``get_tensor(name)`` all.

    Raises FileNotFoundError or ValueError naming the file and what to do.
    """
    again = "Run the generation again: it writes what is missing"
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the chunk {path} is missing. {again}.") from error
    except SafetensorError as error:
        raise ValueError(f"the chunk {path} is damaged ({error}). Delete it. {again}.") from error


def _checked(cells: GeneratedCells, schema: AtlasSchema) -> list[csr_matrix]:
    """The counts of each modality as CSR with sorted indices and no stored zeros, as they are drawn."""
    n_cells, n_factors = len(cells.labels), len(schema.counted)
    if cells.log_size_factor.shape != (n_cells, n_factors):
        raise ValueError(
            f"log size factors {cells.log_size_factor.shape} for {n_cells} cells and {n_factors} modalities "
            f"that have one."
        )
    if not cells.counts:
        return []
    if len(cells.counts) != len(schema.modalities):
        raise ValueError(
            f"counts of {len(cells.counts)} modalities; the schema has {len(schema.modalities)}."
        )
    matrices = []
    for modality, drawn in zip(schema.modalities, cells.counts, strict=True):
        counts = csr_matrix(drawn)
        if not (drawn.has_canonical_format and counts.data.all()):
            counts = counts.copy()
            counts.sum_duplicates()
            counts.eliminate_zeros()
        if counts.shape != (n_cells, len(modality.features)):
            raise ValueError(
                f"counts {counts.shape} of {modality.name!r} for {n_cells} cells and "
                f"{len(modality.features)} features."
            )
        if counts.nnz and counts.data.min() < 0:
            raise ValueError(f"a negative count was drawn: {counts.data.min()}.")
        matrices.append(counts)
    return matrices
