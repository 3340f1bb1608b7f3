"""Slabs written into the laid-out TileDB-SOMA experiment of a generated atlas, by any number of workers.

A slab is one write, hence one fragment, which is there wholly or not at all. Slabs of one experiment are
different cells of arrays that are there already, so that they may be written at once, in any order, twice,
or again after a worker was killed. Each is written as of a time of its own, which the process chose that laid
the experiment out: the clocks of other machines decide nothing, and a fragment says by its name whose it is.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cfgen_scale.types import AtlasSchema, IntArray

from ..layout import narrowest_unsigned, quick_codecs
from ..stores.soma_errors import first_line
from ..stores.soma_slabs import SLAB_CELLS
from .checksums import Described, describe, files_below
from .generated_atlas import GeneratedAtlas
from .generated_layout import LATENT_KEY, counts_path
from .receipts import Receipts
from .soma_layout import obs_table
from .soma_tasks import SomaTask
from .writer import room_for

BUILDING, DONE = "experiment.soma", "done"


@dataclass(frozen=True)
class SlabWriter:
    """Writes slabs of the finished atlas ``atlas`` into the experiment laid out in the directory ``work``.
    Picklable.

    begun  milliseconds since 1970: when the experiment was laid out, as TileDB is told
    """

    atlas: Path
    schema: AtlasSchema
    work: Path
    begun: int

    @property
    def building(self) -> Path:
        """Where the experiment is until it is finished."""
        return self.work / BUILDING

    @property
    def receipts(self) -> Receipts:
        """Of the slabs that are written."""
        return Receipts(self.work / DONE, self.building)

    def run(self, task: SomaTask) -> None:
        """Write one slab. To run it twice, even at once, does no harm: of fragments of one slab, which hold
        the same, one has a receipt.

        Memory is some 0.5 GB beside the libraries. Raises OSError if the disk is full.
        """
        with tiledb_in_one_line(self.work), room_for(self.work), quick_codecs():
            before = self._fragments(task)
            self._write(task, GeneratedAtlas.at(self.atlas, self.schema))
            new = sorted(self._fragments(task) - before)
            if task.n_bytes and not new:
                raise RuntimeError(f"TileDB did not commit {task.name} below {self.building}.")
            self.receipts.write(task.name, self._files_of(task, new[:1]))

    def _write(self, task: SomaTask, source: GeneratedAtlas) -> None:
        import tiledbsoma

        uri, timestamp = str(self.building / task.array), self._time_of(task)
        with tiledbsoma.open(uri, "w", context=_context(), tiledb_timestamp=timestamp) as array:
            if task.kind == "latents":
                _write_latents(task, source, array)
                return
            if task.kind == "obs":
                table = obs_table(source.read_cells(slice(task.begin, task.end)), source)
            else:
                table = _counts(task, source)
            if len(table):
                # In the order in which TileDB stores them: to have it sort takes five times as long.
                array.write(table, platform_config=tiledbsoma.TileDBWriteOptions(sort_coords=False))

    def _time_of(self, task: SomaTask) -> int:
        return self.begun + 1 + task.number

    def _fragments(self, task: SomaTask) -> set[str]:
        """The names of the fragments of a slab that are committed."""
        of_slab = f"__{self._time_of(task)}_{self._time_of(task)}_"
        return {path.stem for path in (self.building / task.array / "__commits").glob(f"{of_slab}*.wrt")}

    def _files_of(self, task: SomaTask, fragments: list[str]) -> dict[str, Described]:
        files = []
        for fragment in fragments:
            folder = f"{task.array}/__fragments/{fragment}"
            files += [f"{folder}/{file}" for file in files_below(self.building / folder)]
            files.append(f"{task.array}/__commits/{fragment}.wrt")
        return {file: describe(self.building, file) for file in files}


@contextmanager
def tiledb_in_one_line(work: Path) -> Iterator[None]:
    """Errors of TileDB, a full disk among them, as an OSError of one line."""
    import tiledbsoma

    try:
        yield
    except tiledbsoma.SOMAError as error:
        raise OSError(
            f"{work} cannot be written: {first_line(error)} What was written is kept in it. Run the same "
            "again when that is mended: it goes on from there."
        ) from error


def _context() -> Any:
    """TileDB with as many threads as OMP_NUM_THREADS says, which Ray sets to the CPUs of a worker: left to
    itself, each of so many workers would take all cores."""
    import tiledbsoma

    threads = os.environ.get("OMP_NUM_THREADS", "")
    kinds = ("sm.compute_concurrency_level", "sm.io_concurrency_level") if threads.isdecimal() else ()
    return tiledbsoma.SOMATileDBContext(tiledb_config=dict.fromkeys(kinds, threads))


def _counts(task: SomaTask, source: GeneratedAtlas) -> Any:
    """Coordinates and counts of a slab, tile by tile, and row by row within each."""
    import pyarrow as pa

    path = counts_path(source.schema, task.modality)
    data, indices, indptr = (source.array(f"{path}/{name}") for name in ("data", "indices", "indptr"))
    pointers = indptr[task.begin : task.end + 1].astype(np.int64)
    counts = slice(int(pointers[0]), int(pointers[-1]))
    rows = np.repeat(np.arange(task.begin, task.end), np.diff(pointers))
    columns = indices[counts].astype(np.int64)
    order = _by_tile(rows - task.begin, columns, len(source.schema.modalities[task.modality].features))
    return pa.table(
        {"soma_dim_0": rows[order], "soma_dim_1": columns[order], "soma_data": data[counts][order]}
    )


def _by_tile(rows: IntArray, columns: IntArray, n_columns: int) -> IntArray:
    """The order of coordinates, which come row by row, that puts each tile's together."""
    tiles_of_row = -(-n_columns // SLAB_CELLS)
    tiles = rows // SLAB_CELLS * tiles_of_row + columns // SLAB_CELLS
    return np.argsort(tiles.astype(narrowest_unsigned(int(tiles.max(initial=0)))), kind="stable")


def _write_latents(task: SomaTask, source: GeneratedAtlas, array: Any) -> None:
    import pyarrow as pa

    values = np.ascontiguousarray(source.array(f"obsm/{LATENT_KEY}")[task.begin : task.end])
    array.write((slice(task.begin, task.end - 1), slice(None)), pa.Tensor.from_numpy(values))
