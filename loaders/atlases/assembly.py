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
from typing import Any

import zarr
from tqdm import tqdm

from cfgen_scale.files import flush, write_file, write_json
from cfgen_scale.types import AtlasSchema

from .assembly_tasks import ChunkReader, Task, all_tasks, files_of, run_task
from .checksums import SUMS_FILE, digests_of, files_below, sums_text
from .chunk_files import ChunkTable, Content
from .generated_atlas import read_provenance
from .generated_layout import Extent, check_writable, lay_out
from .writer import PartialAtlas, room_for

__all__ = ["Assembly", "Task", "check_writable", "finish", "read_provenance"]

BUILDING, LAID_OUT, DONE = "atlas.zarr", "laid_out.json", "done"


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
        extent = Extent(
            int(table.cells.sum()),
            table.latent,
            tuple(table.nnz.sum(axis=0).tolist()),
            tuple(table.largest.max(axis=0).tolist()) if expected else (),
        )
        assembly = Assembly(partial, schema, table, extent)
        assembly._lay_out(provenance)
        return assembly

    @property
    def bytes(self) -> int:
        """Of all arrays of cells and counts, before they are compressed."""
        return sum(task.bytes for task in self._all_tasks())

    def tasks(self) -> list[Task]:
        """What is still to be done, by any workers in any order."""
        return [task for task in self._all_tasks() if self._receipt(task) is None]

    def run(self, task: Task) -> None:
        """Write the shards of one task. To run it twice, even at once, does no harm.

        Memory is a few times ``task.bytes``. Raises FileNotFoundError or ValueError naming a chunk that is
        missing or damaged, OSError if the disk is full.
        """
        with room_for(self.partial.path), _quick_encoding():
            root = zarr.open_group(self._building, mode="r+")
            run_task(task, root, self._chunks)
            files = {file: self._described(file) for file in files_of(task, root, self._chunks)}
            path = self._receipt_path(task)
            path.parent.mkdir(exist_ok=True)
            write_json(path, files)

    def complete(self, out: str | Path) -> Path:
        """Put the finished atlas in its place ``out`` with its manifest, then remove the work directory.

        Raises RuntimeError if a task is not done.
        """
        out = Path(out)
        digests = self._digests()
        with room_for(self.partial.path):
            # What was left by workers that were killed while they wrote.
            for stray in set(files_below(self._building)) - set(digests):
                (self._building / stray).unlink()
            with write_file(self._building / SUMS_FILE) as file:
                file.write(sums_text(digests))
            os.rename(self._building, out)
            flush(out.parent)
        shutil.rmtree(self.partial.path)
        return out

    @property
    def _building(self) -> Path:
        return self.partial.path / BUILDING

    @property
    def _chunks(self) -> ChunkReader:
        return ChunkReader(self.partial, self.table, self.schema, self.extent)

    def _all_tasks(self) -> Iterator[Task]:
        return all_tasks(zarr.open_group(self._building, mode="r"), self.schema, self.extent)

    def _lay_out(self, provenance: Mapping[str, Any]) -> None:
        """Lay the atlas out, under another name first; one of another extent or provenance is begun anew."""
        text = json.dumps([provenance, self.schema.to_json(), asdict(self.extent)], sort_keys=True)
        of = hashlib.sha256(text.encode()).hexdigest()
        laid_out = self.partial.path / LAID_OUT
        if laid_out.is_file():
            found = json.loads(laid_out.read_text())
            if found["of"] == of and all((self._building / file).is_file() for file in found["files"]):
                return
        laid_out.unlink(missing_ok=True)
        for rest in (BUILDING, DONE):
            shutil.rmtree(self.partial.path / rest, ignore_errors=True)
        with room_for(self.partial.path):
            lay_out(self._building, self.schema, self.extent, provenance)
            files = digests_of(self._building, sorted(files_below(self._building)))
            write_json(laid_out, {"of": of, "files": files})

    def _receipt_path(self, task: Task) -> Path:
        return self.partial.path / DONE / f"{task.name}.json"

    def _receipt(self, task: Task) -> dict[str, Any] | None:
        """The files of a task with their sizes and digests; None unless it is done and they are there."""
        try:
            files: dict[str, Any] = json.loads(self._receipt_path(task).read_text())
            there = all((self._building / file).stat().st_size == files[file]["bytes"] for file in files)
        except FileNotFoundError:
            return None
        return files if there else None

    def _described(self, file: str) -> dict[str, Any]:
        digests = digests_of(self._building, [file])
        return {"bytes": (self._building / file).stat().st_size, "sha256": digests[file]}

    def _digests(self) -> dict[str, str]:
        """The sha256 of every file of the atlas. Raises RuntimeError if a task is not done."""
        digests: dict[str, str] = json.loads((self.partial.path / LAID_OUT).read_text())["files"]
        for task in self._all_tasks():
            files = self._receipt(task)
            if files is None:
                raise RuntimeError(
                    f"the atlas in {self.partial.path} is not whole: task {task.name} is not done."
                )
            digests |= {file: described["sha256"] for file, described in files.items()}
        return digests


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
    tasks, total = assembly.tasks(), assembly.bytes
    done = total - sum(task.bytes for task in tasks)
    bar = tqdm(total=total, initial=done, unit="B", unit_scale=True, desc="assembling", disable=not progress)
    with bar:
        for task in tasks:
            assembly.run(task)
            bar.update(task.bytes)
    return assembly.complete(out)


def _quick_encoding() -> Any:
    """Arrays opened inside are encoded by zarr's fused pipeline: a third of the default's time a chunk."""
    return zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.FusedCodecPipeline"})
