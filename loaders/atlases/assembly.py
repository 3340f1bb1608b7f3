"""From the chunks of a `PartialAtlas` to one atlas that looks as if it had been written in one go.

One process lays the atlas out, inside the work directory: all metadata and no numbers. Tasks then write its
shards, in any number of workers that share the file system, each in bounded memory; that a task is done is
written down with the sha256 of its files, so that one that was killed, or whose files have vanished, is done
again. Last come the manifest and a rename, and the chunks are removed. Nothing in the atlas depends on when,
where or by how many workers its chunks and shards were written.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from tqdm import tqdm

from cfgen_scale.files import flush, write_file, write_json
from cfgen_scale.types import AtlasSchema, IntArray

from ..layout import quick_codecs
from .assembly_tasks import ChunkReader, Task, all_tasks, chunks_of, files_of, run_task
from .checksums import SUMS_FILE, Described, Manifest, describe, files_below, read_manifest
from .chunk_files import ChunkTable, Content
from .generated_atlas import read_provenance
from .generated_layout import Extent, check_writable, lay_out
from .receipts import Receipts, files_as_json, files_of_json
from .writer import BUILDING, PartialAtlas, room_for

__all__ = ["Assembly", "Task", "check_writable", "finish", "read_provenance"]

LAID_OUT, DONE = "laid_out.json", "done"


@dataclass(frozen=True)
class Assembly:
    """The atlas being made of the chunks of ``partial``; see `Assembly.of`. Picklable."""

    partial: PartialAtlas
    schema: AtlasSchema
    table: ChunkTable
    extent: Extent

    @staticmethod
    def of(
        partial: PartialAtlas,
        *,
        n_chunks: int,
        schema: AtlasSchema,
        provenance: Mapping[str, Any],
        content: Content = "counts",
    ) -> "Assembly":
        """Lay out the atlas of the chunks 0 to ``n_chunks``, unless that was done before.

        One process does this, the one that holds ``partial``. Raises FileNotFoundError if a chunk is missing,
        ValueError if the chunks are not of this schema and content, OSError if the disk is full.
        """
        table = partial.chunk_table(n_chunks)
        expected = len(schema.modalities) if content == "counts" else 0
        if table.nnz.shape[1] != expected:
            raise ValueError(
                f"the chunks in {partial.path} hold counts of {table.nnz.shape[1]} modalities and not of "
                f"{expected}. Delete that directory and generate again."
            )
        assembly = Assembly(partial, schema, table, Extent.of(table, content))
        assembly._lay_out(provenance)
        return assembly

    @property
    def n_bytes(self) -> int:
        """Of all arrays of cells and counts, before they are compressed."""
        return sum(task.n_bytes for task in self._all_tasks())

    def tasks(self) -> list[Task]:
        """What is still to be done, by any workers in any order."""
        return [task for task in self._all_tasks() if self._receipts.read(task.name) is None]

    def chunks_to_read(self) -> IntArray:
        """The chunks that the tasks still to be done are made of, ascending."""
        chunks = {chunk for task in self.tasks() for chunk in chunks_of(task, self._root(), self.chunks)}
        return np.array(sorted(chunks), dtype=np.int64)

    def run(self, task: Task) -> None:
        """Write the shards of one task. To run it twice, even at once, does no harm.

        Memory is a few times ``task.n_bytes``. Raises FileNotFoundError or ValueError naming a chunk that is
        missing or damaged, OSError if the disk is full.
        """
        with room_for(self.partial.path), quick_codecs():
            root = self._root("r+")
            run_task(task, root, self.chunks)
            names = files_of(task, root, self.chunks)
            self.write_receipt(task, {name: describe(self.building, name) for name in names})

    def complete(self, out: str | Path) -> Path:
        """Put the finished atlas in its place ``out`` with its manifest, then remove the work directory.

        Raises RuntimeError if a task is not done, ValueError if the atlas was finished once and what was
        made again of it did not come out the same.
        """
        out = Path(out)
        manifest = Manifest(self._files(), [size.name for size in self.table.sizes()])
        self._require_as_before(manifest)
        with room_for(self.partial.path):
            # What was left by workers that were killed while they wrote.
            for stray in set(files_below(self.building)) - set(manifest.files):
                (self.building / stray).unlink()
            with write_file(self.building / SUMS_FILE) as file:
                file.write(manifest.encode())
            os.rename(self.building, out)
            flush(out.parent)
        self.partial.remove()
        return out

    def _require_as_before(self, manifest: Manifest) -> None:
        before = self.partial.path / SUMS_FILE
        if before.is_file():
            other = [name for name, of in read_manifest(before).files.items() if manifest.files[name] != of]
            if other:
                raise ValueError(
                    f"{other[0]} of the atlas in {self.partial.path} did not come out as it was before it "
                    "was lost. Copy the atlas again, or delete that directory and generate it again."
                )

    @property
    def building(self) -> Path:
        """Where the atlas is until it is finished."""
        return self.partial.path / BUILDING

    @property
    def chunks(self) -> ChunkReader:
        """What the tasks read."""
        return ChunkReader(self.partial, self.table, self.schema, self.extent)

    def forget_tasks(self) -> None:
        """Have all tasks done again."""
        self._receipts.forget()

    def write_receipt(self, task: Task, files: Mapping[str, Described]) -> None:
        """Write down that a task is done, with the files that it wrote."""
        self._receipts.write(task.name, files)

    def write_laid_out(self, provenance: Mapping[str, Any], files: Mapping[str, Described]) -> None:
        """Write down that the atlas is laid out, with the files of its metadata."""
        laid_out = {"of": self._identity(provenance), "files": files_as_json(files)}
        write_json(self.partial.path / LAID_OUT, laid_out)

    @property
    def _receipts(self) -> Receipts:
        return Receipts(self.partial.path / DONE, self.building)

    def _root(self, mode: Literal["r", "r+"] = "r") -> zarr.Group:
        return zarr.open_group(self.building, mode=mode)

    def _all_tasks(self) -> Iterator[Task]:
        return all_tasks(self._root(), self.schema, self.extent)

    def _lay_out(self, provenance: Mapping[str, Any]) -> None:
        """Lay the atlas out, unless that was done; one of another extent or provenance is begun anew."""
        laid_out = self.partial.path / LAID_OUT
        if laid_out.is_file():
            found = json.loads(laid_out.read_text())
            there = all((self.building / file).is_file() for file in found["files"])
            if there and found["of"] == self._identity(provenance):
                return
        laid_out.unlink(missing_ok=True)
        shutil.rmtree(self.building, ignore_errors=True)
        self.forget_tasks()
        with room_for(self.partial.path):
            lay_out(self.building, self.schema, self.extent, provenance)
            files = {file: describe(self.building, file) for file in sorted(files_below(self.building))}
            self.write_laid_out(provenance, files)

    def _identity(self, provenance: Mapping[str, Any]) -> str:
        text = json.dumps([provenance, self.schema.to_json(), asdict(self.extent)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _files(self) -> dict[str, Described]:
        """Every file of the atlas. Raises RuntimeError if a task is not done."""
        files = files_of_json(json.loads((self.partial.path / LAID_OUT).read_text())["files"])
        for task in self._all_tasks():
            of_task = self._receipts.read(task.name)
            if of_task is None:
                raise RuntimeError(
                    f"the atlas in {self.partial.path} is not whole: task {task.name} is not done."
                )
            files |= of_task
        return files


def finish(
    partial: PartialAtlas,
    out: str | Path,
    *,
    n_chunks: int,
    schema: AtlasSchema,
    provenance: Mapping[str, Any],
    content: Content = "counts",
    progress: bool = False,
) -> Path:
    """Assemble the ``n_chunks`` chunks of ``partial`` into the atlas ``out`` in this process.

    What the atlas holds: see atlases/generated_layout.py. Raises what `Assembly` raises.
    """
    assembly = Assembly.of(partial, n_chunks=n_chunks, schema=schema, provenance=provenance, content=content)
    tasks, total = assembly.tasks(), assembly.n_bytes
    done = total - sum(task.n_bytes for task in tasks)
    bar = tqdm(total=total, initial=done, unit="B", unit_scale=True, desc="assembling", disable=not progress)
    with bar:
        for task in tasks:
            assembly.run(task)
            bar.update(task.n_bytes)
    return assembly.complete(out)
