"""Uncompressed arrays: appended to and mapped without zarr, and what zarr reads all the same."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from loaders.arrays import mapped
from loaders.arrays.mapped import MappedArray, RawAppender, can_be_mapped, chunk_length, chunk_path
from loaders.arrays.runs import Runs
from loaders.layout import create_raw_array
from tests.loaders.conftest import as_nobody

VALUES = np.random.default_rng(0).integers(0, 60_000, 2_300).astype(np.uint16)


def written(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`VALUES` in three chunks of 767 elements, the last one padded by one."""
    monkeypatch.setattr(mapped, "CHUNK", 1_000)
    array = create_raw_array(zarr.create_group(path), "values", len(VALUES), VALUES.dtype)
    appender = RawAppender(array)
    for piece in np.split(VALUES, [0, 5, 700, 2_000]):
        appender.append(piece.astype(np.int64))
    appender.flush()
    return array


def rows(indptr: list[int], wanted: list[int]) -> Runs:
    return Runs.of_rows(np.array(indptr), np.array(wanted))[0]


def test_what_is_appended_is_what_zarr_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = written(tmp_path / "a.zarr", monkeypatch)
    assert array.chunks == (767,)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a.zarr", path="values")[...], VALUES)
    assert chunk_path(array, 2).stat().st_size == 767 * 2


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_rows_that_straddle_files_are_read_whole(
    dtype: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = MappedArray(written(tmp_path / "a.zarr", monkeypatch))
    indptr = [0, 10, 766, 768, 768, 2_300]
    out = np.empty(2_300 + 10, dtype=dtype)
    array.gather(rows(indptr, [4, 2, 1, 0, 0, 3]), out)
    parts = [VALUES[768:], VALUES[766:768], VALUES[10:766], VALUES[:10], VALUES[:10]]
    np.testing.assert_array_equal(out, np.concatenate(parts).astype(dtype))
    assert out.dtype == dtype


def test_files_are_few_whatever_the_length() -> None:
    assert chunk_length(0) == 1
    assert chunk_length(1_000) == 1_000
    assert chunk_length(2**28 + 1) == 2**27 + 1
    assert -(-(10**12) // chunk_length(10**12)) == 128


@pytest.mark.parametrize(
    ("settings", "mappable"),
    [
        ({"compressors": None}, True),
        ({"compressors": None, "zarr_format": 2}, False),
        ({"compressors": None, "shards": (40,)}, False),
        ({"compressors": None, "serializer": zarr.codecs.BytesCodec(endian="big")}, False),
        ({}, False),
    ],
)
def test_only_raw_chunks_are_mapped(settings: dict[str, Any], mappable: bool, tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a", shape=(100,), chunks=(20,), dtype=np.int32, **settings)
    assert can_be_mapped(array) is mappable
    in_memory = zarr.create_array({}, shape=(100,), chunks=(20,), dtype=np.int32, compressors=None)
    assert not can_be_mapped(in_memory)
    table = zarr.create_array(tmp_path / "b", shape=(10, 10), chunks=(5, 5), dtype=np.int32, compressors=None)
    assert not can_be_mapped(table)


def test_a_missing_or_shortened_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = written(tmp_path / "a.zarr", monkeypatch)
    path = chunk_path(array, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-2])
    with pytest.raises(ValueError, match=r"values/c/1 has 1,532 bytes instead of 1,534: it was cut off"):
        MappedArray(array)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"the chunk .*values/c/1 is missing"):
        MappedArray(array)


def test_a_file_that_may_not_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not pytest's own directory, into which nobody else may look.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        array = written(Path(folder) / "a.zarr", monkeypatch)
        chunk_path(array, 1).chmod(0)
        with as_nobody(), pytest.raises(PermissionError, match="values/c/1"):
            MappedArray(array)


def test_a_corrupt_index_is_refused_naming_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = MappedArray(written(tmp_path / "a.zarr", monkeypatch))
    out = np.empty(700, dtype=np.int32)
    array.gather(rows([0, 800, 1_500], [1]), out, limit=60_000)
    with pytest.raises(ValueError, match=r"values/c/1 is corrupt: it has an index that is none of 9 genes"):
        array.gather(rows([0, 800, 1_500], [1]), out, limit=9)
