"""Uncompressed arrays on a local disk: every chunk is a raw file, mapped into memory and copied from.

A chunk of a Zarr v3 array without compression is the numbers themselves, so that a random row costs what
the memory costs, once the page cache has it; the pages are the system's and leave when it needs them.

Read with care for what a mapping cannot tell: a file that is shortened *while it is mapped* ends the process
with SIGBUS. What can be seen on opening (a file that is missing, too short or too long) is refused then.
"""

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from loaders.arrays.gather import frozen
from loaders.arrays.runs import Runs

CHUNK = 2**28
MOST_FILES = 128  # mapped at a time, of each array: far below the limits of descriptors and mappings


def chunk_length(length: int) -> int:
    """Elements of a chunk of an uncompressed array: up to `CHUNK`, all chunks of nearly the same length; more
    where there would be more than `MOST_FILES` of them."""
    files = min(max(-(-length // CHUNK), 1), MOST_FILES)
    return max(-(-length // files), 1)


def can_be_mapped(array: Any) -> bool:
    """Whether an array is 1-d, of Zarr v3, on a local disk, and its chunks are little-endian numbers."""
    if not is_local(array) or array.metadata.zarr_format != 3 or array.dtype.kind not in "iuf":
        return False
    codecs: Any = array.metadata.to_dict()["codecs"]
    match codecs:
        case [{"name": "bytes", **rest}]:
            # A byte has no order, and then none is named.
            configuration: Any = rest.get("configuration", {})
            return bool(configuration.get("endian", "little") == "little")
    return False


def is_local(array: Any) -> bool:
    """Whether an array is of Zarr, 1-d, and in files of this machine."""
    return isinstance(array, zarr.Array) and array.ndim == 1 and isinstance(array.store, LocalStore)


def chunk_path(array: zarr.Array[Any], index: int) -> Path:
    """The file of a chunk (or shard) of a 1-d array in a `LocalStore`."""
    assert isinstance(array.store, LocalStore)
    return array.store.root / array.path / array.metadata.encode_chunk_key((index,))


class MappedArray:
    """One array (n,) that `can_be_mapped`, read by runs; safe to use from several threads.

    Raises FileNotFoundError, PermissionError or ValueError naming the file of a chunk that is missing, cannot
    be read or has the wrong size.
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        self.dtype = np.dtype(array.dtype)
        self._chunk = int(array.chunks[0])
        n_chunks = -(-array.shape[0] // self._chunk)
        self._paths = [chunk_path(array, i) for i in range(n_chunks)]
        self._maps = [_mapped(path, self._chunk, self.dtype) for path in self._paths]

    def gather(self, runs: Runs, out: NDArray[Any], *, limit: int | None = None) -> None:
        """Copy runs into ``out``, cast to its dtype; with a ``limit``, see `CutRuns.copy`."""
        cut = runs.cut(self._chunk)
        maps = [self._maps[chunk] for chunk in cut.chunks.tolist()]
        cut.copy(maps, out, limit=limit, what=lambda chunk: str(self._paths[chunk]))


def _mapped(path: Path, length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the chunk {path} is missing: the store is not whole. Copy or write it again."
        ) from error
    with file:
        size, expected = path.stat().st_size, length * dtype.itemsize
        if size != expected:
            raise ValueError(
                f"the chunk {path} has {size:,} bytes instead of {expected:,}: it was cut off or is not of "
                f"this store. Copy or write the store again."
            )
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return frozen(np.frombuffer(mapping, dtype=dtype))


class RawFiles:
    """The files of an array that `can_be_mapped`, written at any place; safe to use from several threads and
    processes, of which each writes its own elements.

    Nothing is written through a mapping: a full disk is an OSError here, and not the end of the process.
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        assert can_be_mapped(array)
        self.array = array
        self._chunk = int(array.chunks[0])

    def reserve(self) -> None:
        """Give every file its size. What was not written takes no room on most disks, and reads as zeros."""
        for index in range(-(-self.array.shape[0] // self._chunk)):
            path = chunk_path(self.array, index)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.truncate(self._chunk * self.array.dtype.itemsize)

    def write(self, begin: int, values: NDArray[Any]) -> None:
        """Write elements from ``begin`` on; they are cast to the array's dtype and must fit it."""
        values = np.ascontiguousarray(values, dtype=self.array.dtype)
        while len(values):
            index, within = divmod(begin, self._chunk)
            piece = values[: self._chunk - within]
            with chunk_path(self.array, index).open("r+b") as file:
                file.seek(within * self.array.dtype.itemsize)
                file.write(piece.data)
            begin += len(piece)
            values = values[len(piece) :]

    def sync(self) -> None:
        """Return when everything is on the disk."""
        for index in range(-(-self.array.shape[0] // self._chunk)):
            with chunk_path(self.array, index).open("r+b") as file:
                os.fsync(file.fileno())


class RawAppender:
    """Fills an array that `can_be_mapped` from its beginning, straight into the files of its chunks.

    Memory is what is appended.
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        self.array = array
        self.length = 0
        self._files = RawFiles(array)
        self._files.reserve()

    def append(self, values: NDArray[Any]) -> None:
        """Add elements behind those there are; they are cast to the array's dtype and must fit it."""
        self._files.write(self.length, values)
        self.length += len(values)

    def flush(self) -> None:
        """The end: as many elements must have come as the array is long."""
        assert self.length == self.array.shape[0]
