"""A table of annotations of cells (CSV, TSV, Parquet), for stores whose obs lacks them: Cell Ranger's do.

The first column (Parquet: the index, if it was kept) is the name of a cell, as the store has it: a barcode.
Samples often share barcodes: a column ``source`` then says which source a row is about, by a part of its
path, such as the folder ``sample_3`` of ``/data/sample_3/filtered_feature_bc_matrix.h5``.

A cell that is not in the table is unlabelled; a row about no cell, or no source given, is not used.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.stores.store import NAMES_AT_ONCE, CellStore, categorical, no_column

SOURCE = "source"
REMEDY = f"Add a column {SOURCE!r} that says for every row the file or the folder of its sample."
SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}


@dataclass(frozen=True)
class AnnotationTable:
    """Rows of text by name of cell; column ``source``, if there is one, limits a row to one source."""

    path: Path
    frame: pd.DataFrame

    @staticmethod
    def read(path: str | Path, columns: Sequence[str]) -> "AnnotationTable":
        """Those of ``columns`` that the table has. Raises FileNotFoundError; ValueError if it has none."""
        path = Path(path).absolute()
        if not path.is_file():
            raise FileNotFoundError(f"there is no table of annotations at {path}.")
        try:
            frame = _frame(path)
        except (ValueError, OSError) as error:
            raise ValueError(f"{path} cannot be read as a table of annotations: {error}") from error
        wanted = [name for name in dict.fromkeys(columns) if name in frame]
        if not wanted:
            raise ValueError(
                f"{path} has none of the columns asked for ({', '.join(columns) or 'none'}). Its columns, "
                f"behind the one with names of cells: {', '.join(frame.columns) or 'none'}."
            )
        return AnnotationTable(path, frame[[*wanted, *(name for name in [SOURCE] if name in frame)]])

    @property
    def described(self) -> str:
        """Its name and the beginning of its sha256: what makes it another table."""
        with self.path.open("rb") as file:
            return f"{self.path.name} (sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:16]})"

    def annotate(self, stores: Sequence[CellStore]) -> "list[CellStore]":
        """The stores with the columns of the table. One that matches no row, and has the columns itself, is
        left as it is.

        Raises ValueError where a row would be about two cells, and for a store without a cell in the table.
        """
        of_source = self._rows_of_sources([store.uri for store in stores])
        annotated: list[CellStore] = []
        taken = np.full(len(self.frame), -1)
        for i, (store, rows) in enumerate(zip(stores, of_source, strict=True)):
            places = self._places(store, rows)
            if (places >= 0).any():
                self._require_own_cells(stores, i, places, taken)
                annotated.append(AnnotatedStore(store, self, places))
            elif set(self.columns) <= set(store.obs_columns):
                annotated.append(store)
            else:
                raise ValueError(
                    f"no cell of {store.uri} is in {self.path}. Its first cell is "
                    f"{_first(store.obs_names(0, 1))}, the first of the table {_first(rows.index)}: "
                    f"names must be equal."
                )
        return annotated

    @property
    def columns(self) -> list[str]:
        """What it tells of cells."""
        return [str(name) for name in self.frame if name != SOURCE]

    def _rows_of_sources(self, uris: Sequence[str]) -> list[pd.DataFrame]:
        """The rows about each source, places in the table as column ``SOURCE``."""
        places = pd.DataFrame({SOURCE: np.arange(len(self.frame))}, index=self.frame.index)
        if SOURCE not in self.frame:
            return [_unique(places, self.path)] * len(uris)
        said = {str(name): _the_source(str(name), uris, self.path) for name in self.frame[SOURCE].unique()}
        of_row = self.frame[SOURCE].astype(str).map(said).to_numpy()
        return [_unique(places[of_row == i], self.path) for i in range(len(uris))]

    def _places(self, store: CellStore, rows: pd.DataFrame) -> IntArray:
        """(n_cells,) the row of the table about each cell, -1 where there is none."""
        slabs = [np.zeros(0, dtype=np.int64)]
        for start in range(0, store.n_cells, NAMES_AT_ONCE):
            names = store.obs_names(start, min(start + NAMES_AT_ONCE, store.n_cells))
            slabs.append(rows.index.get_indexer(pd.Index(names, dtype=object)))
        found = np.concatenate(slabs)
        # The last entry answers for -1.
        return np.append(rows[SOURCE].to_numpy(), -1)[found]

    def _require_own_cells(
        self, stores: Sequence[CellStore], i: int, places: IntArray, taken: NDArray[np.int64]
    ) -> None:
        """Raise ValueError if a row is about two cells, of store ``i`` or of one before; marks the rows."""
        rows, counts = np.unique(places[places >= 0], return_counts=True)
        twice = rows[(counts > 1) | (taken[rows] >= 0)]
        taken[rows] = i
        if len(twice):
            raise ValueError(
                f"{self.path}: {len(twice)} rows are about several cells, first "
                f"{self.frame.index[twice[0]]!r}, which is in {stores[i].uri} and elsewhere. {REMEDY}"
            )


class AnnotatedStore:
    """`CellStore` over another one with the columns of a table besides its own; ``places`` (n_cells,) are the
    rows of the table, -1 for a cell that it lacks."""

    def __init__(self, store: CellStore, table: AnnotationTable, places: IntArray) -> None:
        self.uri, self.kind = store.uri, store.kind
        self.n_cells, self.features = store.n_cells, store.features
        self.slab_cells, self.kept_cells = store.slab_cells, store.kept_cells
        self.annotated_cells = int((places >= 0).sum())
        self._store = store
        self._table = table
        self._places = places

    @property
    def obs_columns(self) -> tuple[str, ...]:
        own = self._store.obs_columns
        return (*own, *(name for name in self._table.columns if name not in own))

    def obs_column(self, name: str) -> pd.Categorical:
        if name not in self._table.columns:
            if name not in self._store.obs_columns:
                raise no_column(name, self.obs_columns, self.uri)
            return self._store.obs_column(name)
        if name in self._store.obs_columns:
            raise ValueError(
                f"{name!r} is a column both of {self._table.path} and of the obs of {self.uri}. Give it "
                f"another name in the table."
            )
        column = categorical(self._table.frame[name].array)
        codes = np.where(self._places < 0, -1, np.asarray(column.codes)[self._places])
        return categorical(pd.Categorical.from_codes(codes, categories=column.categories))

    def obs_names(self, start: int, stop: int) -> NDArray[Any]:
        return self._store.obs_names(start, stop)

    def read(self, rows: IntArray, *, dtype: DTypeLike | None = None) -> csr_matrix:
        return self._store.read(rows, dtype=dtype)

    def slab_of(self, rows: IntArray) -> IntArray:
        return self._store.slab_of(rows)

    def identity(self) -> dict[str, Any]:
        return self._store.identity()


def _frame(path: Path) -> pd.DataFrame:
    """The table, all text, indexed by name of cell."""
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    kind = suffixes[-1] if suffixes else ""
    if kind in SEPARATORS:
        return pd.read_csv(path, sep=SEPARATORS[kind], dtype=str, index_col=0)
    if kind != ".parquet":
        raise ValueError(f"its name ends with none of {', '.join(SEPARATORS)} (.gz), .parquet.")
    frame = pd.read_parquet(path)
    frame = frame.set_index(frame.columns[0]) if isinstance(frame.index, pd.RangeIndex) else frame
    return frame.set_axis(frame.index.map(str))


def _unique(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    twice = rows.index[rows.index.duplicated()]
    if len(twice):
        raise ValueError(
            f"{path} has {len(twice)} names of cells more than once, first {twice[0]!r}. {REMEDY}"
        )
    return rows


def _the_source(said: str, uris: Sequence[str], path: Path) -> int:
    """Which source ``said`` is: the one whose path has it as a part, or as several in a row; -1 if none."""
    wanted = PurePosixPath(said).parts
    found = [i for i, uri in enumerate(uris) if _has_parts(PurePosixPath(uri).parts, wanted)]
    if len(found) > 1:
        raise ValueError(
            f"{path}: {said!r} (column {SOURCE!r}) is a part of the paths of {len(found)} sources, such as "
            f"{uris[found[0]]} and {uris[found[1]]}. Say more of the path."
        )
    return found[0] if found else -1


def _has_parts(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    n = len(wanted)
    return any(parts[i : i + n] == wanted for i in range(len(parts) - n + 1))


def _first(names: Any) -> str:
    return repr(names[0]) if len(names) else "none"
