"""Cells of a slow store copied to a local disk as they are first read, so that later epochs cost nothing.

The copy is the packed form without compression (loaders/layout.py): since `prepare` has counted the genes of
every cell, the place of each cell in it is known before any is read. What was read for a batch is written
there and marked; the rest are holes, which take no room. When the last block is marked, what has been a
``cells.zarr.partial`` becomes ``cells.zarr``, an AnnData-Zarr that anyone can open.

The directory must be of a local disk: its files are mapped into memory. Several processes of one machine may
fill it together: whoever writes a block writes the same bytes, and marks it behind them.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import DTypeLike
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.arrays.kept import Kept
from loaders.arrays.mapped import RawFiles
from loaders.layout import consolidate, create_atlas, create_csr, write_frame
from loaders.stores.anndata_store import AnnDataStore, open_zarr
from loaders.streaming.shuffled_blocks import Blocks

CELLS, PARTIAL, MARKS, BOOT = "cells.zarr", "cells.zarr.partial", "blocks.filled", "boot"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
BLOCKS_AT_ONCE = 2  # filled by one thread before it looks for others


class Filled:
    """That a block is in the copy: nothing is kept of it in memory."""

    nbytes = 1  # more than the budget


class CellCache:
    """A copy of ``blocks`` of cells in ``folder``, filled by ``read`` (rows, dtype) where it has to be.

    largest_count  bounds every count
    non_zeros      gives those (n,) int64 of each cell, which ``read`` must find, and
    obs            the names and labels of the cells (n,): both are asked for where the copy is new

    Safe to use from several threads. Raises OSError for a disk that is full, saying so.
    """

    def __init__(
        self,
        folder: Path,
        *,
        read: Callable[[IntArray, DTypeLike], csr_matrix],
        blocks: Blocks,
        features: tuple[str, ...],
        non_zeros: Callable[[], IntArray],
        largest_count: int,
        obs: Callable[[], pd.DataFrame],
    ) -> None:
        self._folder = folder
        self._read = read
        self._blocks = blocks
        self._filling: Kept[int, Filled] = Kept(budget_bytes=0)
        with _alone(folder):
            if _is_stale(folder):
                shutil.rmtree(folder)
            if not folder.exists():
                ends = np.append(0, np.cumsum(non_zeros()))
                _create(folder, blocks, features, ends, largest_count, obs())
            self._marks = np.memmap(folder / MARKS, dtype=np.uint8, mode="r+")
            self._is_whole = (folder / CELLS).exists()
            self._copy: AnnDataStore = open_zarr(
                str(folder / (CELLS if self._is_whole else PARTIAL)), is_canonical=True
            )
        self._ends = self._copy.row_pointers
        if not self._is_whole:
            self._data, self._indices = _raw_files(folder / PARTIAL)
            self._complete_if_filled()

    @property
    def filled(self) -> float:
        """Share of the blocks that are in the copy."""
        return float(np.count_nonzero(self._marks)) / len(self._marks)

    def read(self, rows: IntArray, *, dtype: DTypeLike | None = None) -> csr_matrix:
        """Counts of ``rows``, from the copy, which gets what it lacks first."""
        if not self._is_whole:
            self._fill(np.unique(np.searchsorted(self._blocks.begins, rows, side="right") - 1))
        return self._copy.read(rows, dtype=dtype)

    def _fill(self, blocks: IntArray) -> None:
        lacking = blocks[self._marks[blocks] == 0].tolist()
        if lacking:
            self._filling.get(lacking, self._filled, at_once=BLOCKS_AT_ONCE)
            self._complete_if_filled()

    def _filled(self, blocks: list[int]) -> dict[int, Filled]:
        """Copy those of ``blocks`` that no other thread has copied by now."""
        for block in blocks:
            if not self._marks[block]:
                begin, end = self._blocks.begins[block : block + 2].tolist()
                self._write(begin, self._read(np.arange(begin, end), self._data.array.dtype))
                self._marks[block] = 1
        return {block: Filled() for block in blocks}

    def _write(self, begin: int, counts: csr_matrix) -> None:
        if not np.array_equal(
            np.diff(self._ends[begin : begin + counts.shape[0] + 1]), np.diff(counts.indptr)
        ):
            raise ValueError(
                f"cells {begin:,} to {begin + counts.shape[0]:,} have other genes than when the atlas was "
                f"prepared: its source has changed. Prepare it again."
            )
        try:
            self._data.write(int(self._ends[begin]), counts.data)
            self._indices.write(int(self._ends[begin]), counts.indices)
        except FileNotFoundError:
            # Another process has written the last block, this one too, and renamed the copy.
            if not (self._folder / CELLS).exists():
                raise
        except OSError as error:
            raise OSError(
                error.errno,
                f"{os.strerror(error.errno or 0)}: the cache {self._folder} cannot be written. It takes up "
                f"to {self._bytes():,} bytes: make room, name another directory, or leave the cache out",
            ) from error

    def _bytes(self) -> int:
        each = self._data.array.dtype.itemsize + self._indices.array.dtype.itemsize
        return int(self._ends[-1]) * each

    def _complete_if_filled(self) -> None:
        """Name a copy with all blocks as what it is. Whoever has it open goes on with the same files."""
        if not self._marks.all():
            return
        try:
            for files in (self._data, self._indices):
                files.sync()
            with _alone(self._folder):
                os.rename(self._folder / PARTIAL, self._folder / CELLS)
        except FileNotFoundError:
            # Another thread or process has seen the last mark too.
            if not (self._folder / CELLS).exists():
                raise
        self._is_whole = True


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for other processes that open or complete the copy in ``folder``, and keep them waiting."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _create(
    folder: Path,
    blocks: Blocks,
    features: tuple[str, ...],
    ends: IntArray,
    largest_count: int,
    obs: pd.DataFrame,
) -> None:
    """A copy that holds nothing yet. It appears at once; another process may be first, then it is theirs."""
    new = folder.with_name(f"{folder.name}.{os.getpid()}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    root = create_atlas(new / PARTIAL)
    shape, nnz = (len(ends) - 1, len(features)), int(ends[-1])
    group = create_csr(root, "X", shape=shape, nnz=nnz, largest_count=largest_count, codec="none")
    indptr: Any = group["indptr"]
    indptr[...] = ends
    for files in _raw_files(new / PARTIAL):
        files.reserve()
    write_frame(root, "obs", obs)
    write_frame(root, "var", pd.DataFrame(index=pd.Index(features, dtype=object)))
    consolidate(new / PARTIAL)
    np.zeros(len(blocks.begins) - 1, dtype=np.uint8).tofile(new / MARKS)
    (new / BOOT).write_text(_boot())
    try:
        os.rename(new, folder)
    except OSError:
        shutil.rmtree(new)
        if not folder.exists():
            raise


def _raw_files(atlas: Path) -> tuple[RawFiles, RawFiles]:
    counts: Any = zarr.open_group(atlas / "X", mode="r+")
    return RawFiles(counts["data"]), RawFiles(counts["indices"])


def _is_stale(folder: Path) -> bool:
    """Whether a copy that is not whole is of before the machine was started: its marks may be on the disk
    without what they mark."""
    if not folder.exists() or (folder / CELLS).exists():
        return False
    return (folder / BOOT).read_text() != _boot()


def _boot() -> str:
    """What differs after the machine was started again; empty where the system does not say it."""
    return BOOT_ID.read_text() if BOOT_ID.exists() else ""
