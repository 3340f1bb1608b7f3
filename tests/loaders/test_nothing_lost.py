"""Damage to a store, store by store: one clear error that names the file, from reading and from `prepare`.

Of packed cells also test_repack.py, of a full disk test_repack_interrupted.py, of shards that are missing
test_collection.py, of another store at the same place test_identity.py.
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from loaders.preparation.prepare import prepare
from loaders.stores.opening import open_store
from tests.loaders.conftest import as_nobody, make_atlas, write_as

Damage = Callable[[Path], None]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(path: Path) -> None:
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(whole[:half] + bytes(b ^ 255 for b in whole[half : half + 64]) + whole[half + 64 :])


def spoil_hdf5_chunk(path: Path) -> None:
    with h5py.File(path) as file:
        counts = file["matrix" if "matrix" in file else "X"]
        chunk = counts["data"].id.get_chunk_info(0)
    whole = bytearray(path.read_bytes())
    whole[chunk.byte_offset + 4 : chunk.byte_offset + chunk.size] = bytes(chunk.size - 4)
    path.write_bytes(whole)


# Form of the store; the file of it that is damaged; the damage; what is said.
DAMAGES: list[tuple[str, str, Damage, str]] = [
    ("h5ad", "", cut, r"atlas.h5ad is not an HDF5 file.*truncated file.*cut off, copy it again"),
    ("h5ad", "", spoil_hdf5_chunk, r"elements 0 to [\d,]+ of data of .*atlas.h5ad cannot be read"),
    ("10x_h5", "", cut, r"matrix.h5 is not an HDF5 file.*truncated file.*cut off, copy it again"),
    ("10x_h5", "", spoil_hdf5_chunk, r"elements 0 to [\d,]+ of data of .*matrix.h5 cannot be read"),
    ("10x_mtx", "matrix.mtx.gz", cut, r"matrix.mtx.gz cannot be read to its end.*Copy it again"),
    ("10x_mtx", "matrix.mtx.gz", spoil, r"matrix.mtx.gz cannot be read to its end.*Copy it again"),
    ("zarr_v2", "X/data/0", cut, r"X/data/0 is corrupt.*Copy or write the store again"),
    ("zarr_v2", "X/data/0", Path.unlink, r"X/data/0 is missing: the store is not whole"),
    ("zarr_v3", "X/indices/c/0", cut, r"X/indices/c/0 is corrupt.*Copy or write the store again"),
    ("zarr_v3", "X/indices/c/0", spoil, r"X/indices/c/0 is corrupt.*Copy or write the store again"),
    ("zarr_v3", "X/indices/c/0", Path.unlink, r"X/indices/c/0 is missing: the store is not whole"),
    ("zarr_dense", "X/c/3/0", cut, r"elements .* of X of .*dense.zarr cannot be read.*write the store again"),
    ("zarr_dense", "X/c/3/0", Path.unlink, r"elements .* of X of .*dense.zarr cannot be read.*'c/3/0'"),
    ("shards", "dataset_10/X/data/c/0", spoil, r"dataset_10/X/data/c/0 is corrupt"),
    ("shards", "dataset_10/X/data/c/0", Path.unlink, r"dataset_10/X/data/c/0 is missing"),
    ("packed_none", "X/data/c/0", cut, r"X/data/c/0 has [\d,]+ bytes instead of [\d,]+: it was cut off"),
    ("packed_none", "X/data/c/0", Path.unlink, r"X/data/c/0 is missing"),
    ("packed_zstd", "X/data/c/0", spoil, r"X/data/c/0 is corrupt"),
    ("packed_zstd", "X/data/c/0", Path.unlink, r"X/data/c/0 is missing"),
    ("soma", "a0.tdb", cut, r"X/counts cannot be read: .*Read exceeds file size.*a0.tdb.*copy the exp"),
    ("soma", "a0.tdb", spoil, r"X/counts cannot be read: .*decompression.*copy the experiment again"),
    ("soma", "d1.tdb", Path.unlink, r"soma\S* cannot be read: .*d1.tdb'; No such file"),
    ("soma", "__fragment_metadata.tdb", cut, r"cannot be read: .*__fragment_metadata.tdb"),
]


def written(form: str, folder: Path, part: str = "") -> tuple[Path, Path]:
    """The store, and the file in it whose damage is wanted."""
    store = write_as(make_atlas(n_cells=300), form, folder)
    assert isinstance(store, Path)
    if form == "h5ad":
        make_atlas(n_cells=300).write_h5ad(store, compression="gzip")
    if form == "soma":
        (fragment,) = (store / "ms/RNA/X/counts/__fragments").iterdir()
        return store, fragment / part
    return store, store / part if part else store


@pytest.mark.parametrize(("form", "part", "damage", "said"), DAMAGES)
def test_damage_is_one_error_that_names_the_file(
    form: str, part: str, damage: Damage, said: str, folder: Path
) -> None:
    store, file = written(form, folder, part)
    damage(file)
    everything = re.compile(said, re.DOTALL)
    for attempt in (
        lambda: open_store(store).read(np.arange(300)),
        lambda: prepare(store, folder / "out", min_cells_per_gene=0, progress=False),
    ):
        with pytest.raises((OSError, ValueError)) as error:
            attempt()
        assert everything.search(str(error.value)), error.value
        assert str(store) in str(error.value)
    assert not list(folder.glob("out*"))


@pytest.mark.parametrize(
    ("form", "part"),
    [
        ("h5ad", ""),
        ("10x_h5", ""),
        ("10x_mtx", "matrix.mtx.gz"),
        ("10x_mtx", ""),
        ("zarr_v3", "X/data/c/0"),
        ("zarr_v3", "zarr.json"),
        ("zarr_v3", ""),
        ("zarr_dense", "X/c/3/0"),
        ("shards", "dataset_10"),
        ("packed_none", "X/data/c/0"),
        ("packed_zstd", "X/data/c/0"),
    ],
)
def test_what_may_not_be_read_is_named(form: str, part: str, folder: Path) -> None:
    store, file = written(form, folder, part)
    mode, work = file.stat().st_mode, folder / "work"
    file.chmod(0)
    work.mkdir()
    work.chmod(0o777)
    try:
        with as_nobody(), pytest.raises(PermissionError, match=r"(?i)permission denied") as error:
            prepare(store, work / "out", min_cells_per_gene=0, progress=False)
    finally:
        file.chmod(mode)
    assert str(file) in str(error.value)
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("part", ["a0.tdb", "d0.tdb"])
def test_a_file_of_an_experiment_that_may_not_be_read_is_named(part: str, folder: Path) -> None:
    store, file = written("soma", folder, part)
    file.chmod(0)
    with as_nobody(), pytest.raises(OSError, match=rf"cannot be read: .*X/counts/.*{part}.*Permission"):
        prepare(store, folder / "out", min_cells_per_gene=0, progress=False)


def test_a_folder_that_may_not_be_written_to_is_told_before_any_work(folder: Path) -> None:
    store, _ = written("h5ad", folder)
    (folder / "mine").mkdir(mode=0o755)
    if os.geteuid() != 0:
        (folder / "mine").chmod(0o555)
    with (
        as_nobody(),
        pytest.raises(PermissionError, match=r"mine/out cannot be made: .*mine may not be"),
    ):
        prepare(store, folder / "mine" / "out", min_cells_per_gene=0, progress=False)
    assert list((folder / "mine").iterdir()) == []


def test_an_experiment_damaged_after_it_was_opened_is_told_when_it_is_read(folder: Path) -> None:
    store, file = written("soma", folder, "a0.tdb")
    opened = open_store(store)
    file.unlink()
    with pytest.raises(OSError, match=r"X/counts cannot be read: .*a0.tdb"):
        opened.read(np.arange(300))
