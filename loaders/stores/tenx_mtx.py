"""Folders of ``matrix.mtx``, ``barcodes.tsv`` and ``features.tsv`` (``genes.tsv``), each as it is or gzipped.

Written by Cell Ranger 2 and 3 and by STARsolo. The matrix is text in no order that helps: it is parsed as a
whole when its first cell is read, and of all such folders together one matrix is kept in memory. One sample
takes about 30 bytes a non-zero while it is parsed and 12 afterwards, however many samples there are.
"""

import gzip
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.io import mminfo, mmread
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.stores.identity import digest_of_file, digest_of_names
from loaders.stores.store import WithoutAnnotations
from loaders.stores.tenx_features import genes_of

MATRIX = "matrix.mtx"
BARCODES = "barcodes.tsv"
FEATURES = ("features.tsv", "genes.tsv")


def is_tenx_mtx(path: Path) -> bool:
    """Whether a folder holds a matrix of this kind."""
    return any(path.glob(f"*{MATRIX}")) or any(path.glob(f"*{MATRIX}.gz"))


class TenxMtxStore(WithoutAnnotations):
    """`CellStore` over the genes of one folder; it has no annotations but the barcodes.

    Files may have a prefix ("GSM123_matrix.mtx.gz") if there is one of each. Raises FileNotFoundError or
    ValueError for a folder that lacks one or holds several, and where numbers of cells or genes disagree.
    """

    kind = "10x-mtx"

    def __init__(self, path: str, *, feature_column: str | None = None) -> None:
        folder = Path(path).absolute()
        self.uri = str(folder)
        self._path = _the_file(folder, MATRIX)
        n_features, self.n_cells, self._stored_values = _shape(self._path)
        self._barcodes = [line[0] for line in _table(_the_file(folder, BARCODES))]
        table = _table(_the_file(folder, *FEATURES))
        for what, found, expected in (
            ("barcodes", len(self._barcodes), self.n_cells),
            ("features", len(table), n_features),
        ):
            if found != expected:
                raise ValueError(
                    f"{self.uri} is not whole: it lists {found} {what}, and {self._path.name} has "
                    f"{expected}. Copy the folder again from where it came from."
                )
        ids, names = [line[0] for line in table], [line[min(1, len(line) - 1)] for line in table]
        kinds = [line[2] for line in table] if table and len(table[0]) > 2 else None
        self._genes = genes_of(ids, names, kinds, feature_column=feature_column, uri=self.uri)
        self.features: tuple[str, ...] = self._genes.names
        # All cells are parsed at once, and all are kept.
        self.slab_cells = self.kept_cells = max(self.n_cells, 1)

    def obs_names(self, start: int, stop: int) -> NDArray[Any]:
        return np.array(self._barcodes[start:stop], dtype=object)

    def read(self, rows: IntArray, *, dtype: DTypeLike | None = None) -> csr_matrix:
        """As `CellStore.read`. Raises ValueError if the file was cut off, or is not what its header says."""
        counts = _LATEST.of(self)[rows]
        return counts if dtype is None else counts.astype(dtype, copy=False)

    def slab_of(self, rows: IntArray) -> IntArray:
        return np.zeros(len(rows), dtype=np.int64)

    def identity(self) -> dict[str, Any]:
        return {
            "cells": self.n_cells,
            "features": len(self._genes.names),
            "stored_values": self._stored_values,
            "names": digest_of_names(self._genes.names),
            "barcodes": digest_of_names(self._barcodes),
            "sample": digest_of_file(self._path),
            "features_left_out": self._genes.left_out,
        }

    def parsed(self) -> csr_matrix:
        """The whole matrix, cells x genes."""
        try:
            triplets = mmread(self._path, spmatrix=False)
        except (ValueError, OverflowError, EOFError, OSError) as error:
            if isinstance(error, PermissionError):
                raise
            raise ValueError(
                f"{self._path} cannot be read to its end: {error}. Copy it again from where it came from."
            ) from error
        counts = csr_matrix(triplets.T)
        counts.sum_duplicates()
        return counts if not self._genes.left_out else counts[:, self._genes.columns]


class _Latest:
    """The matrix that was read last; threads that want it wait for one to parse it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._store: TenxMtxStore | None = None
        self._counts: csr_matrix | None = None

    def of(self, store: TenxMtxStore) -> csr_matrix:
        with self._lock:
            if self._store is not store:
                self._store = self._counts = None  # before the next one comes, so that there is one at most
                self._counts = store.parsed()
                self._store = store
            return self._counts


_LATEST = _Latest()


def _the_file(folder: Path, *names: str) -> Path:
    """The only file in ``folder`` whose name ends with one of ``names``, gzipped or not."""
    found = sorted(path for name in names for end in ("", ".gz") for path in folder.glob(f"*{name}{end}"))
    wanted = " or ".join(names)
    if not found:
        raise FileNotFoundError(f"{folder} is not whole: there is no {wanted}, nor one that is gzipped.")
    if len(found) > 1:
        raise ValueError(
            f"{folder} holds several: {', '.join(path.name for path in found)}. Give every sample a "
            f"folder of its own, and each file once."
        )
    return found[0]


def _shape(path: Path) -> tuple[int, int, int]:
    """Features, cells and values stored, from the header."""
    try:
        rows, columns, values, form, kind, _ = mminfo(path)
    except (ValueError, EOFError, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        raise ValueError(f"{path} is not a Matrix Market file: {error}.") from error
    if form != "coordinate" or kind not in ("integer", "real"):
        raise ValueError(f"{path} holds {kind} numbers as {form}: counts are integer coordinates.")
    return int(rows), int(columns), int(values)


def _table(path: Path) -> list[list[str]]:
    """Lines of a file of tab-separated values."""
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            return [line.rstrip("\r\n").split("\t") for line in file if line.strip()]
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} was cut off: {error}. Copy it again from where it came from.") from error
