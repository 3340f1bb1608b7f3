"""A finished generated atlas written once more as a TileDB-SOMA experiment, in a work directory beside it.

One process lays the experiment out. Tasks then write its slabs, in any number of workers that share the file
system, each in bounded memory; that a task is done is written down when TileDB has committed its fragment.
Last come the metadata and a rename. Killed at any moment, the same again writes what is missing. Cells and
counts do not depend on workers or interruptions; the bytes do, for TileDB names fragments by the time and by
chance. tiledbsoma.io, which could convert an AnnData held in memory, is not used.
"""

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cfgen_scale.files import ASIDE, flush, write_json

from .checksums import SUMS_FILE, Described, describe, digest, files_below
from .generated_atlas import GeneratedAtlas
from .generated_layout import PROVENANCE_KEY
from .receipts import files_as_json, files_of_json
from .soma_layout import lay_out_experiment
from .soma_slab_writer import BUILDING, DONE, SlabWriter, tiledb_in_one_line
from .soma_tasks import SomaTask, all_soma_tasks
from .writer import LOCK_FILE, PartialAtlas, room_for

LAID_OUT = "laid_out.json"


@dataclass(frozen=True)
class SomaAssembly:
    """The experiment being made in the work directory ``partial``, and the writer of its slabs, which is all
    that workers need; see `SomaAssembly.of`."""

    partial: PartialAtlas
    writer: SlabWriter
    all_tasks: tuple[SomaTask, ...]

    @staticmethod
    def of(atlas: str | Path, out: str | Path) -> "SomaAssembly":
        """Lay out the experiment of ``atlas`` that is to lie at ``out``, unless that was done before.

        One process does this, the one that holds the work directory (``PartialAtlas.beside(out).held()``).
        Raises FileNotFoundError or FileExistsError for what is no finished generated atlas, ValueError for
        one without counts, FileExistsError if the work directory is that of another atlas, or of something
        else; OSError if the disk is full.
        """
        source = opened_with_counts(atlas)
        partial, tasks = PartialAtlas.beside(Path(out).absolute()), tuple(all_soma_tasks(source))
        identity, found = _identity(source, tasks), _laid_out(partial)
        if found and found["of"] != identity:
            raise FileExistsError(
                f"{partial.path} holds an unfinished experiment of another atlas than {atlas} is now, or one "
                "that another version began. Delete that directory, and run the same again."
            )
        # So long ago that no slab is written as of a time that is still to come.
        begun = found["begun"] if found else time.time_ns() // 10**6 - len(tasks) - 2
        writer = SlabWriter(source.path, source.schema, partial.path, begun)
        assembly = SomaAssembly(partial, writer, tasks)
        if not found or not all((writer.building / file).is_file() for file in found["files"]):
            assembly._lay_out(source, identity)
        return assembly

    @property
    def n_cells(self) -> int:
        return max(task.end for task in self.all_tasks)

    @property
    def n_bytes(self) -> int:
        """Of all slabs, about, before they are compressed."""
        return sum(task.n_bytes for task in self.all_tasks)

    def tasks(self) -> list[SomaTask]:
        """What is still to be done, by any workers in any order (``writer.run``)."""
        return [task for task in self.all_tasks if self.writer.receipts.read(task.name) is None]

    def complete(self, out: str | Path) -> Path:
        """Put the finished experiment in its place ``out``, then remove the work directory.

        Raises RuntimeError if a task is not done.
        """
        out = Path(out).absolute()
        files = self._files()
        with tiledb_in_one_line(self.partial.path), room_for(self.partial.path):
            _remove_others(self.writer.building, files)
            self._write_provenance()
            os.rename(self.writer.building, out)
            flush(out.parent)
        self.partial.remove()
        return out

    def _lay_out(self, source: GeneratedAtlas, identity: str) -> None:
        laid_out, building = self.partial.path / LAID_OUT, self.writer.building
        laid_out.unlink(missing_ok=True)
        shutil.rmtree(building, ignore_errors=True)
        self.writer.receipts.forget()
        with tiledb_in_one_line(self.partial.path), room_for(self.partial.path):
            lay_out_experiment(source, str(building), self.writer.begun)
            files = {file: describe(building, file) for file in sorted(files_below(building))}
            begun = self.writer.begun
            write_json(laid_out, {"of": identity, "begun": begun, "files": files_as_json(files)})

    def _files(self) -> dict[str, Described]:
        """Every file of the experiment but for its provenance. Raises RuntimeError if a task is not done."""
        files = files_of_json(json.loads((self.partial.path / LAID_OUT).read_text())["files"])
        for task in self.all_tasks:
            of_task = self.writer.receipts.read(task.name)
            if of_task is None:
                raise RuntimeError(
                    f"the experiment in {self.partial.path} is not whole: task {task.name} is not done."
                )
            files |= of_task
        return files

    def _write_provenance(self) -> None:
        import tiledbsoma

        source = GeneratedAtlas.open(self.writer.atlas)
        after_all = self.writer.begun + len(self.all_tasks) + 1
        documents = {**source.provenance, "schema": source.schema.to_json()}
        uri = str(self.writer.building)
        with tiledbsoma.Experiment.open(uri, "w", tiledb_timestamp=after_all) as experiment:
            for name, document in documents.items():
                experiment.metadata[f"{PROVENANCE_KEY}.{name}"] = json.dumps(document, sort_keys=True)


def write_soma(atlas: str | Path, out: str | Path, *, progress: bool = False) -> Path:
    """Write the generated atlas ``atlas`` as a TileDB-SOMA experiment at ``out`` in this process.

    What it holds: see atlases/soma_layout.py. Raises what `SomaAssembly` raises, FileExistsError if there is
    something at ``out``, RuntimeError if another process is at it. Stopped, the same call goes on from there.
    """
    out = Path(out).absolute()
    opened_with_counts(atlas)
    with PartialAtlas.beside(out).held():
        if out.exists():
            raise FileExistsError(f"{out} exists. Choose another path, or delete it first.")
        assembly = SomaAssembly.of(atlas, out)
        for task in tqdm(assembly.tasks(), desc="SOMA", unit=" slabs", disable=not progress):
            assembly.writer.run(task)
        return assembly.complete(out)


def opened_with_counts(atlas: str | Path) -> GeneratedAtlas:
    """A generated atlas. Raises ValueError for one of latents, and as `GeneratedAtlas.open`."""
    source = GeneratedAtlas.open(Path(atlas).absolute())
    if source.content == "latents":
        raise ValueError(f"{atlas} holds latents and no counts. Decode it first: cfgen-scale decode.")
    return source


def read_soma_provenance(experiment: str | Path) -> dict[str, Any]:
    """The provenance that was written with an experiment, and the schema; {} of one that is none of ours.

    Raises FileExistsError if there is something else at that path.
    """
    import tiledbsoma

    try:
        with tiledbsoma.Experiment.open(str(experiment)) as opened:
            texts = {
                name: text for name, text in opened.metadata.items() if name.startswith(f"{PROVENANCE_KEY}.")
            }
    except (tiledbsoma.SOMAError, TypeError) as error:
        raise FileExistsError(f"{experiment} is no SOMA experiment: {error}") from error
    return {name.removeprefix(f"{PROVENANCE_KEY}."): json.loads(text) for name, text in texts.items()}


def _identity(source: GeneratedAtlas, tasks: tuple[SomaTask, ...]) -> str:
    """Of an atlas by the digests of its files, and of how it is parted into tasks."""
    text = json.dumps([digest(source.path / SUMS_FILE), [asdict(task) for task in tasks]], sort_keys=True)
    return sha256(text.encode()).hexdigest()


def _laid_out(partial: PartialAtlas) -> dict[str, Any] | None:
    """What was written down of the experiment in the work directory; None if nothing was begun there."""
    if (partial.path / LAID_OUT).is_file():
        document: dict[str, Any] = json.loads((partial.path / LAID_OUT).read_text())
        return document
    found = set(os.listdir(partial.path)) if partial.path.exists() else set()
    if any(name not in (LOCK_FILE, BUILDING, DONE) and not name.endswith(ASIDE) for name in found):
        raise FileExistsError(f"{partial.path} exists and was not begun as a SOMA experiment. Move it away.")
    return None


def _remove_others(building: Path, files: dict[str, Described]) -> None:
    """Remove what killed workers left: fragments that were torn, or that were written twice."""
    for stray in set(files_below(building)) - set(files):
        (building / stray).unlink()
    for fragment in building.rglob("__fragments/*"):
        if not any(fragment.iterdir()):
            fragment.rmdir()
