"""An atlas while it is being generated: a work directory ``OUT.partial`` beside the atlas ``OUT`` to be.

It holds ``plan.json``, written first, and ``chunks/000017.npz``, one file a chunk. Each file is written
under a temporary name, flushed to the disk and renamed, so that a file that is there is whole. Several
workers, on several machines that share the file system, may write chunks at once. `loaders.assembly`
makes the atlas of the chunks and removes the directory.
"""

import fcntl
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.types import AtlasSchema, GeneratedCells, Modality

from .layout import narrowest_unsigned

PLAN_FILE, LOCK_FILE, CHUNKS, ASIDE = "plan.json", "lock", "chunks", ".aside"


@dataclass(frozen=True)
class ChunkFile:
    """One chunk read back: B cells of one group of the request.

    data, indices (nnz,) narrow and unsigned, indptr (B + 1,) int64: the CSR counts, to be widened before
    scipy sees them; labels (B, K) int64, -1 = untold; log_size_factor (B, S) float32; latent (B, D) float32.
    """

    group: int
    data: NDArray[Any]
    indices: NDArray[Any]
    indptr: NDArray[np.int64]
    labels: NDArray[np.int64]
    log_size_factor: NDArray[np.float32]
    latent: NDArray[np.float32]


@dataclass(frozen=True)
class ChunkSize:
    """What the atlas must know of a chunk before any is copied.

    cells B; nnz, its non-zeros; largest, its largest count; latent, the dimensions D.
    """

    cells: int
    nnz: int
    largest: int
    latent: int


@dataclass(frozen=True)
class PartialAtlas:
    """The work directory at ``path``; the plan in it is a JSON object that only its writer understands."""

    path: Path

    @staticmethod
    def beside(out: str | Path) -> "PartialAtlas":
        """The work directory of the atlas ``out``, whether it exists or not."""
        out = Path(out)
        return PartialAtlas(out.with_name(f"{out.name}.partial"))

    def read_plan(self) -> dict[str, Any] | None:
        """The plan that the directory was begun with, or None if nothing was begun.

        Raises FileExistsError if something else stands there.
        """
        plan = self.path / PLAN_FILE
        if plan.is_file():
            document: dict[str, Any] = json.loads(plan.read_text())
            return document
        if self.path.exists() and not (self.path.is_dir() and self._is_bare()):
            raise FileExistsError(f"{self.path} exists and was not begun by a generation. Move it away.")
        return None

    def _is_bare(self) -> bool:
        """Whether nothing is there but what a run leaves that was killed before its plan."""
        names = set(os.listdir(self.path)) - {LOCK_FILE, CHUNKS}
        return all(name.endswith(ASIDE) for name in names)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the directory, made if need be, against other processes; given up when this one ends or dies.

        Raises RuntimeError if another process generates into it.
        """
        (self.path / CHUNKS).mkdir(parents=True, exist_ok=True)
        with open(self.path / LOCK_FILE, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RuntimeError(
                    f"another process is generating into {self.path}. Wait for it, or end it first."
                ) from None
            yield

    def begin(self, plan: dict[str, Any]) -> None:
        """Write the plan, which comes before any chunk."""
        text = json.dumps(plan, indent=1, sort_keys=True).encode()
        _write_aside(self.path / PLAN_FILE, lambda file: file.write(text))

    def chunk_path(self, index: int) -> Path:
        """The file of a chunk."""
        return self.path / CHUNKS / f"{index:06d}.npz"

    def has_chunk(self, index: int) -> bool:
        """Whether a chunk is there, and therefore whole."""
        return self.chunk_path(index).is_file()

    def write_chunk(self, index: int, cells: GeneratedCells, schema: AtlasSchema, *, group: int) -> None:
        """Write the cells of one chunk; raises ValueError if they do not fit the schema."""
        counts = _checked(cells, schema)
        largest = int(counts.data.max(initial=0))
        size = [counts.shape[0], counts.nnz, largest, cells.latent.shape[1]]
        arrays = {
            "size": np.array(size, dtype=np.int64),
            "group": np.array(group, dtype=np.int64),
            "data": counts.data.astype(narrowest_unsigned(largest)),
            "indices": counts.indices.astype(narrowest_unsigned(counts.shape[1])),
            "indptr": counts.indptr.astype(np.int64),
            "labels": cells.labels.astype(np.int64),
            "log_size_factor": cells.log_size_factor.astype(np.float32),
            "latent": cells.latent.astype(np.float32),
        }
        _write_aside(self.chunk_path(index), lambda file: np.savez(file, allow_pickle=False, **arrays))

    def chunk_size(self, index: int) -> ChunkSize:
        """The size of a chunk, without reading its counts."""
        with np.load(self.chunk_path(index)) as arrays:
            return ChunkSize(*arrays["size"].tolist())

    def read_chunk(self, index: int) -> ChunkFile:
        """A chunk as it was written."""
        with np.load(self.chunk_path(index)) as arrays:
            named = {name: arrays[name] for name in arrays.files if name not in ("size", "group")}
            return ChunkFile(group=int(arrays["group"]), **named)


def one_modality(schema: AtlasSchema) -> Modality:
    """The only modality of a schema. Raises ValueError if there are more: an atlas is written of one."""
    if len(schema.modalities) != 1:
        names = ", ".join(m.name for m in schema.modalities)
        raise ValueError(
            f"a generated atlas holds one modality; the model has {len(schema.modalities)}: {names}."
        )
    return schema.modalities[0]


def _checked(cells: GeneratedCells, schema: AtlasSchema) -> csr_matrix:
    """The counts as CSR with sorted indices and no stored zeros."""
    n_features = len(one_modality(schema).features)
    counts = csr_matrix(cells.counts[0], copy=True)
    if counts.shape != (len(cells.labels), n_features):
        raise ValueError(f"counts {counts.shape} for {len(cells.labels)} cells and {n_features} features.")
    if counts.nnz and counts.data.min() < 0:
        raise ValueError(f"a negative count was drawn: {counts.data.min()}.")
    counts.sum_duplicates()
    counts.eliminate_zeros()
    return counts


def _write_aside(path: Path, write: Callable[[BinaryIO], object]) -> None:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}{ASIDE}")
    try:
        with open(aside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
