"""What every store of cells answers, and what its readers share.

A store holds the counts of one modality; an atlas of several has a store for each (preparation/prepare.py).

A new kind of store is one file with a reader of the protocol `CellStore` and one case in
`loaders.stores.opening.open_store`; the contract tests of tests/stores/test_store.py run on it.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray

RNA = "rna"
NAMES_AT_ONCE = 262_144


class CellStore(Protocol):
    """Cells with raw counts and annotations, read by row number.

    uri       where it is, an absolute path or URL ("memory" for an object)
    kind      which reader this is
    n_cells   rows
    features  names of its columns, in order

    slab_cells  about how many neighbouring cells are decoded to read one; 1 where any row costs the same
    kept_cells  about how many cells it keeps decoded in memory
    """

    uri: str
    kind: str
    n_cells: int
    slab_cells: int
    kept_cells: int
    features: tuple[str, ...]

    @property
    def obs_columns(self) -> tuple[str, ...]:
        """Names of the annotations of cells."""
        ...

    def obs_column(self, name: str) -> pd.Categorical:
        """One annotation (n_cells,): sorted categories that occur, as strings; missing or empty is code -1.

        Raises ValueError listing the columns there are.
        """
        ...

    def obs_names(self, start: int, stop: int) -> NDArray[Any]:
        """Names of cells start .. stop, an array of str objects."""
        ...

    def read(self, rows: IntArray, *, dtype: DTypeLike | None = None) -> csr_matrix:
        """Counts of ``rows`` (m,), each at most once, in the order asked for: CSR (m, G), indices sorted, in
        the dtype in which they are stored or in ``dtype``, which must hold them."""
        ...

    def slab_of(self, rows: IntArray) -> IntArray:
        """Number of the slab, what is decoded at once, in which each of ``rows`` (m,) lies; they ascend."""
        ...

    def identity(self) -> dict[str, Any]:
        """What would differ if the store at this URI were another one: shape and number of non-zeros."""
        ...


class WithoutAnnotations:
    """What `CellStore` says of annotations, for stores of cells that have none."""

    uri: str

    @property
    def obs_columns(self) -> tuple[str, ...]:
        return ()

    def obs_column(self, name: str) -> pd.Categorical:
        raise no_column(name, self.obs_columns, self.uri)


def names_of(store: CellStore, wanted: NDArray[np.bool_]) -> Iterator[Any]:
    """Names of the cells where ``wanted`` (n_cells,) is true, in the store's order, read by slabs."""
    for start in range(0, store.n_cells, NAMES_AT_ONCE):
        stop = min(start + NAMES_AT_ONCE, store.n_cells)
        yield from store.obs_names(start, stop)[wanted[start:stop]]


def names_of_all(store: CellStore) -> list[Any]:
    """Names of all cells, in the store's order."""
    return list(names_of(store, np.ones(store.n_cells, dtype=bool)))


def categorical(values: Any) -> pd.Categorical:
    """Any column as string categories, sorted, only those that occur; missing and empty become code -1."""
    given = values if isinstance(values, pd.Categorical) else pd.Categorical(values)
    names = [str(category) for category in given.categories]
    codes = np.asarray(given.codes)
    occurring = {names[code] for code in np.unique(codes) if code >= 0}
    categories = sorted(name for name in occurring if name.strip())
    place = {name: i for i, name in enumerate(categories)}
    # The last entry answers for code -1.
    lookup = np.array([place.get(name, -1) for name in names] + [-1], dtype=np.int64)
    return pd.Categorical.from_codes(lookup[codes], categories=pd.Index(categories, dtype=object))


def require_column(column: str, columns: tuple[str, ...], uri: str) -> None:
    """Raise ValueError listing the columns there are unless ``column`` is one."""
    if column not in columns:
        raise no_column(column, columns, uri)


def no_column(column: str, columns: tuple[str, ...], uri: str) -> ValueError:
    """The error that says which annotations of cells there are instead."""
    known = ", ".join(columns) or "none at all: give prepare a table of them (--obs TABLE)"
    return ValueError(f"{uri} has no obs column {column!r}. Its columns: {known}.")


def pick_layer(layer: str | None, layers: tuple[str, ...], *, has_x: bool, uri: str) -> None:
    """Raise ValueError naming the layers there are unless counts can be read from the one asked for."""
    known = f"Its layers: {', '.join(layers) or 'none'}."
    if layer is None and not has_x:
        raise ValueError(f"{uri} has no X. Name the layer that holds raw counts. {known}")
    if layer is not None and layer not in layers:
        raise ValueError(f"{uri} has no layer {layer!r}. {known}")
