"""An atlas while it is being generated: a work directory ``OUT.partial`` beside the atlas ``OUT`` to be.

It holds ``plan.json``, written first, and ``chunks/0000/000017-....safetensors``, one file a chunk. Each file
is written under a temporary name, flushed to the disk and renamed, so that a file that is there is whole.
Several workers, on several machines that share the file system, may write chunks at once. `assembly` makes
the atlas of the chunks and removes the directory.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfgen_scale.files import ASIDE, write_file, write_json
from cfgen_scale.types import AtlasSchema, GeneratedCells, IntArray

from ..aside import NO_ROOM
from ..locks import sole_writer
from .checksums import SUMS_FILE, read_manifest
from .chunk_files import SUFFIX, ChunkSize, ChunkTable, encode_chunk, folder_of

PLAN_FILE, LOCK_FILE, CHUNKS, BUILDING = "plan.json", "lock", "chunks", "atlas.zarr"


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
        """Be the only process that generates into the directory, made if need be and removed if left empty.

        Raises RuntimeError if another process does, PermissionError if the directory cannot be made.
        """
        try:
            with sole_writer(self.path, self.path / LOCK_FILE):
                yield
        finally:
            with suppress(OSError):
                self.path.rmdir()

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Write the plan, which comes before any chunk."""
        self.path.mkdir(parents=True, exist_ok=True)
        with room_for(self.path):
            write_json(self.path / PLAN_FILE, plan)

    def write_chunk(
        self, index: int, cells: GeneratedCells, schema: AtlasSchema, *, group: NDArray[np.int32] | int
    ) -> None:
        """Write the cells of one chunk; without counts, latents alone. ``group`` is the place in the request
        of each cell (B,), or of all.

        Raises ValueError if they do not fit the schema, OSError if the disk is full.
        """
        size, content = encode_chunk(index, cells, schema, group=group)
        path = self._chunks / size.file
        with room_for(self.path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_file(path) as file:
                file.write(content)

    def has_chunk(self, index: int) -> bool:
        """Whether a chunk is there, and therefore whole. To know it of many, use ``chunks_there``."""
        return bool(self._named(index))

    def chunk_file(self, index: int) -> Path:
        """The file of a chunk. Raises FileNotFoundError if it is not there."""
        found = self._named(index)
        if not found:
            raise FileNotFoundError(f"chunk {index} is not in {self._chunks}.")
        return found[0]

    def chunk_path(self, table: ChunkTable, index: int) -> Path:
        """Where the file of a chunk of such sizes is; nothing is looked up."""
        return self._chunks / table.size(index).file

    def chunks_there(self) -> IntArray:
        """The indices of the chunks that are there, ascending."""
        return np.sort(np.array([size.index for size in self._sizes()], dtype=np.int64))

    def chunk_table(self, n_chunks: int) -> ChunkTable:
        """The sizes of the chunks 0 to ``n_chunks``, from the names of their files, or from the manifest of
        an atlas that was finished before it lost files.

        Raises FileNotFoundError naming the first that is missing, ValueError if two do not go together or are
        of one index.
        """
        sizes = self._sizes_by_index()
        missing = [index for index in range(n_chunks) if index not in sizes]
        if missing:
            raise FileNotFoundError(
                f"{len(missing):,} of the {n_chunks:,} chunks are missing in {self._chunks}, the first is "
                f"chunk {missing[0]}. Run the generation again: it writes what is missing."
            )
        first = sizes[0]
        for index in range(n_chunks):
            size = sizes[index]
            if (size.latent, len(size.nnz)) != (first.latent, len(first.nnz)):
                raise ValueError(
                    f"{self._chunks / size.file} and {self._chunks / first.file} are chunks of two atlases. "
                    f"Delete {self.path} and generate again."
                )
        return ChunkTable.of([sizes[index] for index in range(n_chunks)])

    @property
    def was_finished(self) -> bool:
        """Whether an atlas that had been finished and then lost files was put back here (restoring.py)."""
        return (self.path / SUMS_FILE).is_file()

    def has_work(self) -> bool:
        """Whether there is more than a plan: a chunk, or an atlas that is being made."""
        return next(self._sizes(), None) is not None or (self.path / BUILDING).exists()

    def clear(self) -> None:
        """Remove what is in the directory, but for its lock."""
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK_FILE:
                path.unlink()

    def remove(self) -> None:
        """Remove the directory with all that is in it. What cannot be removed stays."""
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def _chunks(self) -> Path:
        return self.path / CHUNKS

    def _named(self, index: int) -> list[Path]:
        return list((self._chunks / folder_of(index)).glob(f"{index:06d}-*{SUFFIX}"))

    def _sizes_by_index(self) -> dict[int, ChunkSize]:
        if self.was_finished:
            manifest = read_manifest(self.path / SUMS_FILE)
            return dict(enumerate(map(ChunkSize.of_name, manifest.chunks)))
        sizes: dict[int, ChunkSize] = {}
        for size in self._sizes():
            other = sizes.setdefault(size.index, size)
            if other != size:
                raise ValueError(
                    f"{self._chunks / size.file} and {other.file} are two chunks {size.index}, "
                    "which came out differently. Delete both and run the generation again, on machines of "
                    "one kind."
                )
        return sizes

    def _sizes(self) -> Iterator[ChunkSize]:
        for folder in os.listdir(self._chunks) if self._chunks.exists() else ():
            for name in os.listdir(self._chunks / folder):
                if name.endswith(SUFFIX):
                    yield ChunkSize.of_name(name)


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """A full disk becomes one line that says that the work done is kept in ``path``, and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise OSError(
            error.errno,
            f"{os.strerror(error.errno)}: {path} cannot grow. What was generated is kept in it: make room "
            f"and run the same again, which goes on from there",
        ) from error
