"""Chunks of Zarr arrays on a local disk, each read by one call of the system and decoded by one of a codec.

zarr itself decodes any array, but spends 400 to 1,200 microseconds on each chunk of 65,536 numbers, of which
the codec takes 50. Rows in random order touch very many chunks, so that the usual forms of 1-d arrays are
read here (v2 and v3, sharded or not, compressed by blosc, zstd or lz4, with crc32c checksums and with gaps
instead of numbers); whatever else there is, `ChunkFiles.of` leaves to zarr.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import zarr
from numpy.typing import NDArray

from loaders.arrays.blosc_runs import DECOMPRESS, decode_blosc
from loaders.arrays.mapped import chunk_path, is_local
from loaders.arrays.reused_memory import REUSED

# Of what is stored makes what was to be stored: returned, or written into the memory given.
type Decoder = Callable[[bytes, NDArray[np.uint8]], Any]

ABSENT = 2**64 - 1  # in the index of a shard: a chunk that holds the fill value alone
CHECKSUM = 4
NATIVE = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
)


class ChunkFiles:
    """The chunks of one array: `read` gives any of them, ``size`` bytes each (the last one is padded)."""

    def __init__(
        self, array: zarr.Array[Any], *, length: int, decoders: list[Decoder], gaps: bool, index_at_end: bool
    ) -> None:
        self.size = length * np.dtype(array.dtype).itemsize
        self._array = array
        self._per_shard = int(array.shards[0]) // length if array.shards else 1
        self._dtype = np.dtype(array.dtype)
        self._decoders = decoders
        self._gaps = gaps
        self._index_at_end = index_at_end
        self._paths: dict[int, str] = {}
        self._indexes: dict[int, NDArray[np.uint64]] = {}

    @staticmethod
    def of(array: Any) -> "ChunkFiles | None":
        """The reader of an array, or None if its form is none of those known here."""
        if not is_local(array) or str(array.dtype) not in NATIVE:
            return None
        document: Any = array.metadata.to_dict()
        if document["zarr_format"] == 2:
            return _of_version_2(array, document)
        return _of_version_3(array, document["codecs"])

    def read(self, first: int, count: int = 1) -> list[NDArray[Any]]:
        """The elements of ``count`` neighbouring chunks, in memory that is used again when they are gone;
        those of a shard that lie together are read by one call.

        Raises OSError or ValueError, naming the file, if it is missing or cut off or the chunk is corrupt.
        """
        values: list[NDArray[Any]] = []
        while count:
            shard, place = divmod(first, self._per_shard)
            here = min(count, self._per_shard - place)
            path = self._path(shard)
            with _naming(path, place), _opened(path) as file:
                stored = self._stored(file, shard, place, here)
            values += self._values(path, place, stored)
            first, count = first + here, count - here
        return values

    def _values(self, path: str, place: int, stored: list[bytes | None]) -> list[NDArray[Any]]:
        """The elements of neighbouring chunks of which these bytes are stored."""
        memory = [REUSED.empty(self.size, np.uint8) for _ in stored]
        values = [of_chunk.view(self._dtype) for of_chunk in memory]
        blosc: dict[int, bytes] = {}
        for i, of_chunk in enumerate(stored):
            if of_chunk is None:
                values[i].fill(self._array.fill_value)
                continue
            with _naming(path, place + i):
                left = self._decode(of_chunk, memory[i])
            if left is not None:
                blosc[i] = left
        if blosc and (wrong := decode_blosc(list(blosc.values()), [memory[i] for i in blosc])) >= 0:
            i = list(blosc)[wrong]
            with _naming(path, place + i):
                raise ValueError(f"it is no Blosc chunk of {self.size} bytes")
        if self._gaps:
            for i in (i for i, of_chunk in enumerate(stored) if of_chunk is not None):
                np.add.accumulate(values[i], dtype=self._dtype, out=values[i])
        return values

    def _decode(self, stored: Any, memory: NDArray[np.uint8]) -> bytes | None:
        """Decode into ``memory``; returns what `decode_blosc` must still decode, many chunks at a time."""
        for decode in self._decoders:
            if decode is _unblosc and decode is self._decoders[-1] and DECOMPRESS is not None:
                left: bytes = stored
                return left
            stored = decode(stored, memory)
        if stored is not memory:
            _require_size(len(stored), memory)
            memory[:] = np.frombuffer(stored, dtype=np.uint8)
        return None

    def _path(self, shard: int) -> str:
        """Kept: to put a path together takes longer than to open the file."""
        if shard not in self._paths:
            self._paths[shard] = str(chunk_path(self._array, shard))
        return self._paths[shard]

    def _stored(self, file: int, shard: int, place: int, count: int) -> list[bytes | None]:
        """The bytes of neighbouring chunks of a shard; None for those that the shard says it has not."""
        if not self._array.shards:
            return [_piece(file, 0, os.fstat(file).st_size)]
        if shard not in self._indexes:
            self._indexes[shard] = self._read_index(file)
        spans = self._indexes[shard][place : place + count].tolist()
        lie_together = all(end + length == begin for (end, length), (begin, _) in pairwise(spans))
        if not lie_together or ABSENT in (begin for begin, _ in spans):
            return [None if begin == ABSENT else _piece(file, begin, length) for begin, length in spans]
        whole = _piece(file, spans[0][0], sum(length for _, length in spans))
        starts = [begin - spans[0][0] for begin, _ in spans]
        return [whole[start : start + length] for start, (_, length) in zip(starts, spans, strict=True)]

    def _read_index(self, file: int) -> NDArray[np.uint64]:
        """(chunks of a shard, 2) where each chunk begins in the file, and its bytes."""
        size = 16 * self._per_shard + CHECKSUM
        begin = os.fstat(file).st_size - size if self._index_at_end else 0
        if begin < 0:
            raise ValueError("the file is shorter than its index")
        index = _checked(_piece(file, begin, size), np.empty(0, dtype=np.uint8))
        return np.frombuffer(index, dtype="<u8").reshape(-1, 2)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY)
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def _naming(path: str, place: int) -> Iterator[None]:
    """Errors that name the file of a chunk, and which part of it the chunk is."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the chunk {path} is missing: the store is not whole. Copy or write it again."
        ) from error
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the chunk {path} is corrupt (part {place}: {error}). Copy or write the store again."
        ) from error


def _piece(file: int, begin: int, length: int) -> bytes:
    """Bytes of a file. Raises ValueError where there are fewer."""
    piece = os.pread(file, length, begin)
    while len(piece) < length:
        # One call reads 2 GiB at most.
        more = os.pread(file, length - len(piece), begin + len(piece))
        if not more:
            raise ValueError("the file ends within it")
        piece += more
    return piece


def _of_version_3(array: zarr.Array[Any], codecs: Any) -> ChunkFiles | None:
    length, at_end = int(array.chunks[0]), True
    match codecs:
        case [{"name": "sharding_indexed", "configuration": sharding}]:
            index = [codec["name"] for codec in sharding["index_codecs"]]
            if index != ["bytes", "crc32c"]:
                return None
            codecs, at_end = sharding["codecs"], sharding["index_location"] == "end"
    gaps = False
    match codecs:
        case [{"name": "numcodecs.delta", "configuration": delta}, *rest]:
            gaps, codecs = True, rest
            if (
                np.dtype(delta["dtype"]) != array.dtype
                or delta.get("astype", delta["dtype"]) != delta["dtype"]
            ):
                return None
    match codecs:
        case [{"name": "bytes", **order}, *packed]:
            configuration: Any = order.get("configuration", {})
            if configuration.get("endian", "little") != "little":
                return None
        case _:
            return None
    # What was done last is undone first.
    decoders = [_decoder(codec["name"]) for codec in reversed(packed)]
    known = [decoder for decoder in decoders if decoder is not None]
    if len(known) < len(decoders):
        return None
    return ChunkFiles(array, length=length, decoders=known, gaps=gaps, index_at_end=at_end)


def _of_version_2(array: zarr.Array[Any], document: Any) -> ChunkFiles | None:
    if document["filters"] or np.dtype(array.dtype).byteorder == ">":
        return None
    compressor = document["compressor"]
    decoders = [] if compressor is None else [_decoder(compressor["id"])]
    known = [decoder for decoder in decoders if decoder is not None]
    if len(known) < len(decoders):
        return None
    return ChunkFiles(array, length=int(array.chunks[0]), decoders=known, gaps=False, index_at_end=True)


def _decoder(name: str) -> Decoder | None:
    match name:
        case "blosc" | "numcodecs.blosc":
            return _unblosc
        case "zstd" | "numcodecs.zstd":
            return lambda stored, memory: numcodecs.Zstd().decode(stored)
        case "lz4" | "numcodecs.lz4":
            return lambda stored, memory: numcodecs.LZ4().decode(stored)
        case "crc32c":
            return _checked
    return None


def _unblosc(stored: bytes, memory: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # The decoder believes the header, which must not send it past the end.
    _require_size(int.from_bytes(stored[4:8], "little"), memory)
    if int.from_bytes(stored[12:16], "little") != len(stored):
        raise ValueError("it is not as long as it says")
    numcodecs.blosc.decompress(stored, memory)
    return memory


def _require_size(size: int, memory: NDArray[np.uint8]) -> None:
    if size != memory.nbytes:
        raise ValueError(f"it holds {size} bytes instead of {memory.nbytes}")


def _checked(stored: bytes, memory: NDArray[np.uint8]) -> bytes:
    """What comes before the checksum. Raises ValueError if the checksum is that of other bytes."""
    content = stored[:-CHECKSUM]
    if google_crc32c.value(content) != int.from_bytes(stored[-CHECKSUM:], "little"):
        raise ValueError("its checksum is that of other bytes")
    return content
