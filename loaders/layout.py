"""The bytes of an atlas of ours: a plain AnnData-Zarr v3 with narrow dtypes, chosen codecs and few files.

Everything that writes cells to Zarr (a converted atlas, a generated one) writes this layout and no other,
and `anndata.read_zarr` opens it without help. What was chosen, and why (measured on PBMC3K, 2.2 M
non-zeros, bytes per non-zero for counts and indices together):

- counts in the narrowest unsigned type, indices and row pointers in ONE signed type, int32 or int64, as
  scipy keeps them in memory. anndata hands over what is stored, and uint16 indices, or int32 ones beside
  int64 pointers, make eliminate_zeros, sort_indices, calculate_qc_metrics and downsample_counts fail
  ("Output dtype not compatible with inputs"). Narrow indices would save nothing: 0.653 bytes a non-zero
  as int32 where uint16 takes 0.639, and they are decoded in four fifths of the time;
- gaps between successive indices (numcodecs' Delta) instead of indices: 1.00 where indices themselves
  take 1.40, both under blosc-zstd with byte shuffle. Delta is an extension of Zarr v3 that zarr-python,
  and therefore anndata and scanpy, opens without a word; a reader without numcodecs will refuse it;
- chunks of 32,768 non-zeros: a random row costs the decoding of one small chunk, and the ratio is within
  1 % of that of chunks four times larger;
- a crc32c checksum of every compressed chunk, four bytes: of 2,000 chunks with one bit turned, blosc-zstd
  gave back 745 (counts) and 1,963 (gaps) without a word;
- shards of 256 chunks: 10^11 non-zeros are about 24,000 files. Two processes that write into ONE shard lose
  chunks, so that a shard has one writer; write whole shards (`SHARD` elements, aligned).

That is the codec "zstd". The codec "none" stores counts and indices as they are, in few large raw files,
which arrays/mapped.py maps and appends to: five or six bytes a non-zero, read several times as fast. Row
pointers, obs and var are compressed in both.
"""

import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import zarr
from numpy.typing import DTypeLike, NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.codecs.numcodecs import Delta

from loaders.arrays.mapped import RawAppender, can_be_mapped, chunk_length

Codec = Literal["none", "zstd"]
CODECS: tuple[Codec, ...] = get_args(Codec)
CHUNK = 32_768
SHARD = 256 * CHUNK
CHUNK_OF_CELLS = 32_768
SHARD_OF_CELLS = 8 * CHUNK_OF_CELLS


def quick_codecs() -> AbstractContextManager[object]:
    """Arrays opened inside go through zarr's fused pipeline: 3 times the rate of its default, which makes
    coroutines for each chunk, at chunks of 32,768 numbers. A user's own choice of pipeline is kept."""
    if "Batched" not in zarr.config.get("codec_pipeline.path"):
        return nullcontext()
    return zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.FusedCodecPipeline"})


def index_dtype(nnz: int, n_features: int) -> np.dtype[Any]:
    """The dtype of both indices and row pointers: int32 while ``nnz`` and ``n_features`` are below 2^31,
    else int64. This is scipy's own rule."""
    return np.dtype(np.int32 if max(nnz, n_features) <= np.iinfo(np.int32).max else np.int64)


def narrowest_unsigned(largest: int) -> np.dtype[Any]:
    """The narrowest of uint8, uint16, uint32, uint64 that holds ``largest``."""
    for dtype in (np.uint8, np.uint16, np.uint32):
        if largest <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype(np.uint64)


def create_atlas(store: str | Path | zarr.Group, name: str | None = None) -> zarr.Group:
    """An empty AnnData-Zarr v3 at the path ``store``, or ``name`` within that group; X, obs and var are still
    to be written.

    Raises zarr.errors.ContainsGroupError if there is a group already.
    """
    if isinstance(store, zarr.Group):
        root = store.create_group(str(name))
    else:
        root = zarr.create_group(store, zarr_format=3)
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    for name in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
        write_element(root, name, {})
    return root


def create_csr(
    root: zarr.Group,
    name: str,
    *,
    shape: tuple[int, int],
    nnz: int,
    largest_count: int,
    codec: Codec = "zstd",
    of_cells: bool = False,
) -> zarr.Group:
    """The group of a CSR matrix whose arrays ``data``, ``indices`` (nnz,) and ``indptr`` (rows + 1,) wait
    to be filled.

    Fill them with the `appender` of each; or, compressed, write ``data`` and ``indices`` in aligned runs of
    `SHARD` elements, each run by one writer.
    ``largest_count`` decides the dtype of ``data``, `index_dtype` that of ``indices`` and ``indptr``, which
    is why ``nnz`` must be known. Where the rows are counted on the way, create with 0 of them, let
    ``indptr`` grow, and put the attribute ``shape`` right. ``of_cells`` gives ``indptr`` the shards of
    `create_of_cells`.
    """
    of_indices = index_dtype(nnz, shape[1])
    group = root.create_group(name)
    group.attrs.update(
        {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [int(n) for n in shape]}
    )
    if codec == "none":
        create_raw_array(group, "data", nnz, narrowest_unsigned(largest_count))
        create_raw_array(group, "indices", nnz, of_indices)
    else:
        create_array(group, "data", shape=(nnz,), dtype=narrowest_unsigned(largest_count))
        create_array(group, "indices", shape=(nnz,), dtype=of_indices, gaps=True)
    create = create_of_cells if of_cells else create_array
    create(group, "indptr", shape=(shape[0] + 1,), dtype=of_indices, gaps=True)
    return group


def create_array(
    group: zarr.Group, name: str, *, shape: tuple[int, ...], dtype: DTypeLike, gaps: bool = False
) -> zarr.Array[Any]:
    """An array in chunks and shards along its first axis, blosc-zstd with byte shuffle.

    ``gaps=True`` stores differences of successive elements (1-d integers in long rising runs).
    """
    chunk = max(1, CHUNK // int(np.prod([max(1, n) for n in shape[1:]], dtype=np.int64)))
    return _create(
        group, name, shape, np.dtype(dtype), gaps=gaps, chunk=chunk, shard=chunk * (SHARD // CHUNK)
    )


def create_of_cells(
    group: zarr.Group, name: str, *, shape: tuple[int, ...], dtype: DTypeLike, gaps: bool = False
) -> zarr.Array[Any]:
    """An array with an entry a cell, numbers or strings, in shards of `SHARD_OF_CELLS` cells whatever the
    size of an entry, so that one worker can write the same cells of all such arrays."""
    chunk = CHUNK_OF_CELLS
    while chunk % 2 == 0 and chunk * int(np.prod(shape[1:], dtype=np.int64)) > CHUNK:
        chunk //= 2
    return _create(group, name, shape, np.dtype(dtype), gaps=gaps, chunk=chunk, shard=SHARD_OF_CELLS)


def _create(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    gaps: bool,
    chunk: int,
    shard: int,
) -> zarr.Array[Any]:
    inner = tuple(max(1, n) for n in shape[1:])
    array = group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(chunk, *inner),
        shards=(shard, *inner),
        filters=[Delta(dtype=dtype.newbyteorder("<").str)] if gaps else None,
        compressors=[
            BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=_bytes_of_element(dtype)),
            Crc32cCodec(),
        ],
        # A chunk that is missing is then always a loss, and never a run of zeros.
        config={"write_empty_chunks": True},
    )
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return array


def _bytes_of_element(dtype: np.dtype[Any]) -> int:
    """1 for strings, which are stored in as many bytes as each has."""
    return dtype.itemsize if dtype.kind in "biuf" else 1


def create_raw_array(group: zarr.Group, name: str, length: int, dtype: DTypeLike) -> zarr.Array[Any]:
    """A 1-d array of ``length`` elements without compression, in few large chunks: see arrays/mapped.py."""
    array = group.create_array(
        name,
        shape=(length,),
        dtype=dtype,
        chunks=(chunk_length(length),),
        filters=None,
        compressors=None,
    )
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return array


def appender(array: Any) -> "ShardAppender | RawAppender":
    """What fills an array of this layout from its beginning."""
    return RawAppender(array) if can_be_mapped(array) else ShardAppender(array)


def write_element(group: zarr.Group, name: str, element: Any) -> None:
    """Write what is no large array as anndata does.

    Strings are written in the form without a mask, which every anndata reads.
    """
    import anndata  # takes a second, and those who fill arrays do without

    with anndata.settings.override(allow_write_nullable_strings=False):
        anndata.io.write_elem(group, name, element)


def write_frame(root: zarr.Group, name: str, frame: pd.DataFrame) -> None:
    """Write ``obs`` or ``var``. Columns of strings should be categoricals."""
    write_element(root, name, frame)


def write_array(group: zarr.Group, name: str, values: NDArray[Any], *, gaps: bool = False) -> None:
    """Create an array as `create_array` does and write ``values`` to it."""
    create_array(group, name, shape=values.shape, dtype=values.dtype, gaps=gaps)[...] = values


def consolidate(path: str | Path) -> None:
    """Gather all metadata of the store in its root, so that opening it takes one read.

    Consolidated metadata is not yet in the Zarr v3 specification, of which zarr warns; every reader that
    does not know it reads the metadata of each array instead.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(path)


class ShardAppender:
    """Fills an array from its beginning, one whole shard at a time; the array grows where it must.

    Rows are gathered until they make a shard, so that memory is one shard and no shard is written twice.
    `flush` writes the last, shorter one: append nothing after it.
    """

    def __init__(self, array: Any) -> None:
        self.array = array
        self.length = 0
        self._shard = int(array.shards[0])
        self._pending: list[NDArray[Any]] = []
        self._written = 0

    def append(self, values: NDArray[Any]) -> None:
        """Add rows behind those there are; values are cast to the array's dtype and must fit it."""
        self._pending.append(values.astype(self.array.dtype, copy=False))
        self.length += len(values)
        if self.length - self._written >= self._shard:
            self._write(whole_shards_only=True)

    def flush(self) -> None:
        """Write what is left and give the array its final length."""
        self._write(whole_shards_only=False)
        if self.array.shape[0] != self.length:
            self.array.resize((self.length, *self.array.shape[1:]))

    def _write(self, *, whole_shards_only: bool) -> None:
        pending = np.concatenate(self._pending) if self._pending else np.empty(0, self.array.dtype)
        ready = len(pending) - len(pending) % self._shard if whole_shards_only else len(pending)
        end = self._written + ready
        if end > self.array.shape[0]:
            self.array.resize((end, *self.array.shape[1:]))
        for begin in range(0, ready, self._shard):
            piece = pending[begin : min(begin + self._shard, ready)]
            self.array[self._written + begin : self._written + begin + len(piece)] = piece
        self._pending = [pending[ready:].copy()]
        self._written = end
