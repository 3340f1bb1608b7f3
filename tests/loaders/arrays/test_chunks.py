"""Chunks decoded without zarr are those that zarr decodes; what is lost or damaged is named."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec
from zarr.codecs.numcodecs import Delta

from loaders.arrays.blocks import BlockArray
from loaders.arrays.blosc_runs import DECOMPRESS
from loaders.arrays.chunks import ChunkFiles
from loaders.arrays.kept import Kept
from loaders.arrays.mapped import chunk_path
from loaders.arrays.runs import Runs
from loaders.layout import create_array, create_atlas

VALUES = np.cumsum(np.random.default_rng(0).integers(0, 9, 1_030)).astype(np.int32)
KNOWN = {
    "v3, blosc": {"compressors": BloscCodec(cname="lz4", shuffle="shuffle", typesize=4)},
    "v3, zstd": {"compressors": ZstdCodec()},
    "v3, zstd and checksum": {"compressors": [ZstdCodec(), Crc32cCodec()]},
    "v3, checksum": {"compressors": Crc32cCodec()},
    "v3, raw in shards": {"compressors": None, "shards": (400,)},
    "v3, gaps in shards": {
        "filters": Delta(dtype="<i4"),
        "compressors": BloscCodec(typesize=4),
        "shards": (400,),
    },
    "v2, blosc": {"compressors": numcodecs.Blosc(), "zarr_format": 2},
    "v2, lz4": {"compressors": numcodecs.LZ4(), "zarr_format": 2},
    "v2, raw": {"compressors": None, "zarr_format": 2},
}
LEFT_TO_ZARR = {
    "v3, gzip": {"compressors": GzipCodec()},
    "v3, big-endian": {"serializer": zarr.codecs.BytesCodec(endian="big")},
    "v2, filter": {"filters": numcodecs.Delta(dtype="<i4"), "zarr_format": 2},
}


def stored(path: Path, settings: dict[str, Any]) -> Any:
    array = zarr.create_array(path, shape=VALUES.shape, chunks=(100,), dtype=np.int32, **settings)
    array[:] = VALUES
    return array


def files_of(array: Any) -> ChunkFiles:
    files = ChunkFiles.of(array)
    assert files is not None
    return files


def read(files: ChunkFiles, index: int) -> Any:
    return files.read(index)[0]


@pytest.mark.parametrize("form", list(KNOWN))
def test_chunks_are_those_of_zarr(form: str, tmp_path: Path) -> None:
    files = files_of(stored(tmp_path / "a", KNOWN[form]))
    assert files.size == 400
    chunks = np.concatenate([read(files, i) for i in range(11)])
    np.testing.assert_array_equal(np.concatenate(files.read(1, 10)), chunks[100:])
    np.testing.assert_array_equal(chunks[: len(VALUES)], VALUES)


@pytest.mark.parametrize("form", [*KNOWN, *LEFT_TO_ZARR])
def test_runs_are_read_whoever_decodes(form: str, tmp_path: Path) -> None:
    array = stored(tmp_path / "a", {**KNOWN, **LEFT_TO_ZARR}[form])
    assert (ChunkFiles.of(array) is None) is (form in LEFT_TO_ZARR)
    blocks = BlockArray(array, "a", Kept(2**20))
    runs, ends = Runs.of_rows(np.array([0, 95, 310, 310, 1_030]), np.array([3, 0, 2, 1, 0]))
    out = np.empty(ends[-1], dtype=np.int64)
    blocks.gather(runs, out)
    parts = [VALUES[310:], VALUES[:95], VALUES[95:310], VALUES[:95]]
    np.testing.assert_array_equal(out, np.concatenate(parts))


def test_a_chunk_that_a_shard_has_not_is_the_fill_value(tmp_path: Path) -> None:
    settings = {"shards": (400,), "compressors": ZstdCodec(), "fill_value": 7}
    array = zarr.create_array(tmp_path / "a", shape=(400,), chunks=(100,), dtype=np.int32, **settings)
    array[100:200] = 1
    files = files_of(array)
    assert read(files, 1).tolist() == [1] * 100
    assert read(files, 3).tolist() == [7] * 100


def ours(path: Path) -> Any:
    """`VALUES` in the compressed layout: one shard."""
    array = create_array(create_atlas(path), "values", shape=VALUES.shape, dtype=np.int32, gaps=True)
    array[:] = VALUES
    return array


def cut(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def turned(at: int) -> Callable[[bytes], bytes]:
    """One bit turned."""
    return lambda whole: whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]


@pytest.mark.parametrize("damage", [cut, turned(40), turned(300), turned(-9), lambda whole: b""])
def test_every_damage_to_a_shard_is_found_and_its_file_named(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    array = ours(tmp_path / "a.zarr")
    np.testing.assert_array_equal(read(files_of(array), 0)[: len(VALUES)], VALUES)
    path = chunk_path(array, 0)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"the chunk .*values/c/0 is corrupt \(part 0: .*"):
        read(files_of(array), 0)


@pytest.mark.parametrize("decoded_together", [True, False])
@pytest.mark.parametrize("left", [3, 20, 300])
def test_a_blosc_chunk_that_was_cut_off_is_never_read_past_its_end(
    left: int, decoded_together: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not decoded_together:
        monkeypatch.setattr("loaders.arrays.chunks.DECOMPRESS", None)
    noise = np.random.default_rng(0).integers(0, 2**31, 100).astype(np.int32)
    array = zarr.create_array(tmp_path, data=noise, compressors=numcodecs.Blosc(), zarr_format=2)
    path = chunk_path(array, 0)
    whole = path.read_bytes()
    assert len(whole) > noise.nbytes
    path.write_bytes(whole[:left])
    with pytest.raises(ValueError, match=r"the chunk .*0 is corrupt"):
        read(files_of(array), 0)


def test_decoding_together_is_decoding_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert DECOMPRESS is not None, "this build of numcodecs hides blosc_decompress_ctx"
    files = files_of(stored(tmp_path, KNOWN["v3, gaps in shards"]))
    together = files.read(0, 11)
    monkeypatch.setattr("loaders.arrays.chunks.DECOMPRESS", None)
    for one, other in zip(together, files.read(0, 11), strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_thread_holds_few_chunks_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaders.arrays.blocks.TOGETHER_BYTES", 3 * 400)
    blocks = BlockArray(stored(tmp_path, KNOWN["v3, zstd"]), "a", Kept(0))
    get, asked = blocks._cache.get, []
    monkeypatch.setattr(
        blocks._cache, "get", lambda keys, *how, **more: asked.append(len(keys)) or get(keys, *how, **more)
    )
    runs, ends = Runs.of_rows(np.array([0, 95, 310, 310, 1_030]), np.array([3, 0, 2, 1]))
    out = np.empty(ends[-1], dtype=np.int64)
    blocks.gather(runs, out)
    np.testing.assert_array_equal(out, np.concatenate([VALUES[310:], VALUES[:95], VALUES[95:310]]))
    np.testing.assert_array_equal(blocks.take(np.arange(len(VALUES))), VALUES)
    assert max(asked) == 3


@pytest.mark.parametrize("form", ["v3, zstd", "v3, gzip"])
def test_a_missing_chunk_is_no_run_of_zeros(form: str, tmp_path: Path) -> None:
    array = stored(tmp_path / "a", {**KNOWN, **LEFT_TO_ZARR}[form])
    chunk_path(array, 4).unlink()
    blocks = BlockArray(array, "counts", Kept(2**20), uri="the atlas")
    with pytest.raises(OSError, match=r"c/4 is missing|of counts of the atlas cannot be read"):
        blocks.take(np.arange(300, 700))


def test_two_threads_decode_every_chunk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = stored(tmp_path, KNOWN["v3, zstd"])
    blocks = BlockArray(array, "a", Kept(2**20))
    read, decoded = blocks._files.read, []
    monkeypatch.setattr(blocks._files, "read", lambda at, n: decoded.extend(range(at, at + n)) or read(at, n))
    everything = np.arange(len(VALUES))
    with ThreadPoolExecutor(2) as pool:
        for values in pool.map(blocks.take, [everything] * 4):
            np.testing.assert_array_equal(values, VALUES)
    assert sorted(decoded) == list(range(-(-len(VALUES) // 100)))
