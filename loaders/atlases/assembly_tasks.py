"""The tasks that make an atlas of its chunks: each writes whole shards of arrays, and reads what it must.

Tasks of one atlas write different files, so that they may run at once, in any order, twice, or again after
one was killed: Zarr renames a shard into place when it is written, and the bytes of a shard depend on the
chunks alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numcodecs.blosc
import numpy as np
import zarr
from numpy.typing import NDArray

from cfgen_scale.types import AtlasSchema, IntArray

from ..layout import narrowest_unsigned
from .chunk_files import ChunkTable, opened_chunk
from .generated_layout import CellSlab, Extent, cell_arrays, counts_path
from .writer import PartialAtlas

NAME_BYTES, POINTER_BYTES = 16, 8  # of the name of a cell, about, and of its row pointer


@dataclass(frozen=True)
class Task:
    """Shard number ``shard`` of the arrays of all cells, or of the counts and features of one modality.

    n_bytes  of its arrays, before they are compressed
    """

    kind: Literal["cells", "counts"]
    modality: int
    shard: int
    n_bytes: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.modality}-{self.shard:06d}"


@dataclass(frozen=True)
class Overlap:
    """What a range of the atlas takes from one chunk: ``begin`` to ``end`` of it, to be put at ``at``."""

    chunk: int
    begin: int
    end: int
    at: int

    @property
    def of_chunk(self) -> slice:
        return slice(self.begin, self.end)

    @property
    def of_range(self) -> slice:
        return slice(self.at, self.at + self.end - self.begin)


def overlaps(bounds: IntArray, begin: int, end: int) -> Iterator[Overlap]:
    """The chunks that make the elements ``begin`` to ``end``; ``bounds`` (n + 1,) says where each begins."""
    first = int(np.searchsorted(bounds, begin, side="right")) - 1
    for chunk in range(first, len(bounds) - 1):
        lo, hi = int(bounds[chunk]), int(bounds[chunk + 1])
        if lo >= end:
            return
        if max(lo, begin) < min(hi, end):
            yield Overlap(chunk, max(lo, begin) - lo, min(hi, end) - lo, max(lo, begin) - begin)


@dataclass(frozen=True)
class ChunkReader:
    """The chunks of an atlas as one long run of cells and, for each modality, of non-zeros."""

    partial: PartialAtlas
    table: ChunkTable
    schema: AtlasSchema
    extent: Extent

    def counts(self, m: int, begin: int, end: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Counts and indices (end - begin,) of those non-zeros of a modality, as narrow as in the chunks."""
        data = np.empty(end - begin, dtype=narrowest_unsigned(self.extent.largest[m]))
        indices = np.empty(end - begin, dtype=narrowest_unsigned(len(self.schema.modalities[m].features)))
        for part in overlaps(_bounds(self.table.nnz[:, m]), begin, end):
            with opened_chunk(self.partial.chunk_path(self.table, part.chunk)) as chunk:
                data[part.of_range] = chunk.get_slice(f"data.{m}")[part.of_chunk]
                indices[part.of_range] = chunk.get_slice(f"indices.{m}")[part.of_chunk]
        return data, indices

    def cells(self, begin: int, end: int) -> tuple[CellSlab, list[IntArray]]:
        """Those cells, and for each modality their row pointers (end - begin + 1,)."""
        slab = CellSlab.empty(begin, end - begin, self.schema, self.table.latent)
        n_modalities = self.table.nnz.shape[1]
        pointers = [np.empty(end - begin + 1, dtype=np.int64) for _ in range(n_modalities)]
        before = [_bounds(self.table.nnz[:, m]) for m in range(n_modalities)]
        for part in overlaps(_bounds(self.table.cells), begin, end):
            with opened_chunk(self.partial.chunk_path(self.table, part.chunk)) as chunk:
                for name in ("labels", "log_size_factor", "latent", "group"):
                    getattr(slab, name)[part.of_range] = chunk.get_slice(name)[part.of_chunk]
                slab.chunk[part.of_range] = part.chunk
                for m in range(n_modalities):
                    # One more than cells, written again by the next chunk: where the one ends, it begins.
                    within = chunk.get_slice(f"indptr.{m}")[part.begin : part.end + 1]
                    pointers[m][part.at : part.at + len(within)] = before[m][part.chunk] + within
        return slab, pointers


def chunks_of(task: Task, root: zarr.Group, chunks: ChunkReader) -> list[int]:
    """The chunks that the shards of a task take something from."""
    if task.kind == "counts":
        array, lengths = (
            _arrays_of_counts(chunks.schema, task.modality)[0],
            chunks.table.nnz[:, task.modality],
        )
    else:
        array, lengths = "obs/_index", chunks.table.cells
    return [part.chunk for part in overlaps(_bounds(lengths), *span(task, _array(root, array)))]


def run_task(task: Task, root: zarr.Group, chunks: ChunkReader) -> None:
    """Write the shards of one task."""
    # With threads of its own, Blosc would store the blocks of a chunk in the order in which they are done.
    threads, numcodecs.blosc.use_threads = numcodecs.blosc.use_threads, False
    try:
        if task.kind == "counts":
            _write_counts(task, root, chunks)
        else:
            _write_cells(task, root, chunks)
    finally:
        numcodecs.blosc.use_threads = threads


def _write_counts(task: Task, root: zarr.Group, chunks: ChunkReader) -> None:
    data, indices = (_array(root, path) for path in _arrays_of_counts(chunks.schema, task.modality))
    begin, end = span(task, data)
    values, columns = chunks.counts(task.modality, begin, end)
    data[begin:end] = values.astype(data.dtype, copy=False)
    indices[begin:end] = columns.astype(indices.dtype)


def _write_cells(task: Task, root: zarr.Group, chunks: ChunkReader) -> None:
    n_cells = chunks.extent.n_cells
    begin, end = span(task, _array(root, "obs/_index"))
    slab, pointers = chunks.cells(begin, end)
    for path, values in cell_arrays(slab, chunks.schema, chunks.extent).items():
        array = _array(root, path)
        array[begin:end] = values if values.dtype == object else values.astype(array.dtype, copy=False)
    for m, of_modality in enumerate(pointers):
        # The last pointer is the first of the next shard, but for that of the last cell.
        stop = end + 1 if end == n_cells else end
        indptr = _array(root, f"{counts_path(chunks.schema, m)}/indptr")
        indptr[begin:stop] = of_modality[: stop - begin].astype(indptr.dtype)


def files_of(task: Task, root: zarr.Group, chunks: ChunkReader) -> list[str]:
    """The files that a task writes, relative to the atlas."""
    if task.kind == "counts":
        paths = _arrays_of_counts(chunks.schema, task.modality)
        return [_shard_file(root, path, task.shard) for path in paths]
    empty = cell_arrays(CellSlab.empty(0, 0, chunks.schema, 0), chunks.schema, chunks.extent)
    indptr = [f"{counts_path(chunks.schema, m)}/indptr" for m in range(len(chunks.extent.nnz))]
    files = [_shard_file(root, path, task.shard) for path in [*empty, *indptr]]
    end = span(task, _array(root, "obs/_index"))[1]
    if end == chunks.extent.n_cells and end % _array(root, "obs/_index").shards[0] == 0:
        files += [_shard_file(root, path, task.shard + 1) for path in indptr]
    return files


def span(task: Task, array: Any) -> tuple[int, int]:
    """The first element of a task's shard, and the one behind the last."""
    shard = int(array.shards[0])
    return task.shard * shard, min((task.shard + 1) * shard, int(array.shape[0]))


def all_tasks(root: zarr.Group, schema: AtlasSchema, extent: Extent) -> Iterator[Task]:
    """All tasks of an atlas that is laid out."""
    arrays = cell_arrays(CellSlab.empty(0, 0, schema, extent.latent), schema, extent).values()
    of_arrays = (
        NAME_BYTES if a.dtype == object else a.dtype.itemsize * int(np.prod(a.shape[1:])) for a in arrays
    )
    a_cell = sum(of_arrays) + POINTER_BYTES * len(extent.nnz)
    yield from _tasks("cells", 0, _array(root, "obs/_index"), a_cell)
    for m in range(len(extent.nnz)):
        data, indices = (_array(root, path) for path in _arrays_of_counts(schema, m))
        yield from _tasks("counts", m, data, data.dtype.itemsize + indices.dtype.itemsize)


def _tasks(kind: Literal["cells", "counts"], modality: int, array: Any, bytes_each: int) -> Iterator[Task]:
    for shard in range(-(-array.shape[0] // array.shards[0])):
        begin, end = span(Task(kind, modality, shard, 0), array)
        yield Task(kind, modality, shard, (end - begin) * bytes_each)


def _arrays_of_counts(schema: AtlasSchema, m: int) -> list[str]:
    return [f"{counts_path(schema, m)}/{name}" for name in ("data", "indices")]


def _array(root: zarr.Group, path: str) -> Any:
    # Zeros are written too, so that a shard that is missing is always a loss. The store does not keep that.
    return cast(zarr.Array[Any], root[path]).with_config({"write_empty_chunks": True})


def _shard_file(root: zarr.Group, path: str, shard: int) -> str:
    array = _array(root, path)
    place = (shard, *(0 for _ in array.shape[1:]))
    return str(Path(path, array.metadata.encode_chunk_key(place)).as_posix())


def _bounds(lengths: IntArray) -> IntArray:
    """(n + 1,) where each of n runs begins, and where the last ends."""
    bounds = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=bounds[1:])
    return bounds
