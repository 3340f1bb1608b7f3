"""What a store of cells answers, and which reader answers for which path.

A new kind of store is one file with a reader of the protocol `CellStore` and one case in `open_store`; the
contract tests of tests/loaders/test_store.py run on it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray

RNA = "rna"
NAMES_AT_ONCE = 262_144
TILEDB_MARKS = ("__tiledb_group.tdb", "__group", "__schema")  # what a group or an array of TileDB holds
TILEDB_SCHEMES = ("s3", "gs", "gcs", "azure", "tiledb", "file")


class SomaOptions(TypedDict, total=False):
    """What `open_store` may be told of a SOMA experiment, beside the layer."""

    measurement: str | None
    obs_filter: str | None
    feature_column: str | None


class CellStore(Protocol):
    """Cells with raw counts and annotations, read by row number.

    uri       where it is, an absolute path or URL ("memory" for an object)
    kind      which reader this is
    n_cells   rows
    features  per modality the names of its columns, in order
    """

    uri: str
    kind: str
    n_cells: int
    features: Mapping[str, tuple[str, ...]]

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

    def read(self, rows: IntArray, modality: str = RNA) -> csr_matrix:
        """Counts of ``rows`` (m,) in the order asked for, CSR (m, G), indices sorted, dtype as stored."""
        ...

    def identity(self) -> dict[str, Any]:
        """What would differ if the store at this URI were another one: shape and number of non-zeros."""
        ...


def open_store(
    source: str | Path | AnnData,
    *,
    layer: str | None = None,
    measurement: str | None = None,
    obs_filter: str | None = None,
    feature_column: str | None = None,
) -> CellStore:
    """The reader for a .h5ad, an AnnData-Zarr (v2 or v3), a SOMA experiment, or an AnnData in memory.

    layer           holds the raw counts; without it they are in X (SOMA: in the only layer of X)
    measurement     of a SOMA experiment ("RNA")
    obs_filter      condition of TileDB on the obs of a SOMA experiment, such as ``tissue == "lung"``
    feature_column  var column of a SOMA experiment with the names of features; without it the index column,
                    var_id, feature_id or feature_name, the first that there is

    A URL does not say what is behind it: one that ends in .zarr, or has a scheme that TileDB does not know,
    is Zarr; elsewhere TileDB is asked for an experiment. Raises FileNotFoundError for a missing path,
    ValueError for what is not a store of cells or an option that does not fit it.
    """
    from loaders.anndata_store import open_h5ad, open_zarr
    from loaders.memory_store import MemoryStore

    soma = SomaOptions(measurement=measurement, obs_filter=obs_filter, feature_column=feature_column)
    kind = _kind(source)
    if kind not in ("soma", "url"):
        _refuse(soma, source)
    match kind:
        case "memory":
            assert isinstance(source, AnnData)
            return MemoryStore(source, layer=layer)
        case "h5ad":
            return open_h5ad(str(source), layer=layer)
        case "zarr":
            return open_zarr(str(source), layer=layer)
        case "soma":
            from loaders.soma_store import open_soma

            return open_soma(str(Path(str(source)).absolute()), layer=layer, **soma)
        case "url":
            return _open_url(str(source), layer, soma)
        case kind:
            raise ValueError(
                f"{source} is {kind}, not a store of cells. Give a .h5ad file, or the directory or URL of "
                f"an AnnData-Zarr or a SOMA experiment."
            )


def _kind(source: str | Path | AnnData) -> str:
    if isinstance(source, AnnData):
        return "memory"
    if "://" in str(source):
        scheme = str(source).partition("://")[0]
        is_zarr = str(source).rstrip("/").endswith(".zarr") or scheme not in TILEDB_SCHEMES
        return "zarr" if is_zarr else "url"
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"there is nothing at {path.absolute()}. Check the path.")
    if path.is_dir():
        return "soma" if any((path / name).exists() for name in TILEDB_MARKS) else "zarr"
    return "h5ad" if path.suffix in (".h5ad", ".h5") else f"a {path.suffix or 'nameless'} file"


def _open_url(url: str, layer: str | None, soma: SomaOptions) -> CellStore:
    """SOMA if options of SOMA are given or TileDB finds an experiment, else Zarr; tells why it is neither."""
    from loaders.anndata_store import open_zarr
    from loaders.soma_store import is_experiment, open_soma

    if any(value is not None for value in soma.values()) or is_experiment(url):
        return open_soma(url, layer=layer, **soma)
    try:
        return open_zarr(url, layer=layer)
    except (ValueError, OSError, ImportError) as error:
        raise ValueError(
            f"{url} is no SOMA experiment that TileDB can reach (a wrong region or missing credentials look "
            f"the same), and read as AnnData-Zarr: {error}"
        ) from error


def _refuse(options: SomaOptions, source: str | Path | AnnData) -> None:
    """Raise ValueError naming the first option that is given."""
    for name, value in options.items():
        if value is not None:
            where = "an AnnData in memory" if isinstance(source, AnnData) else source
            raise ValueError(
                f"{name} = {value!r} is an option of SOMA experiments, and {where} is none. Leave it out."
            )


def names_of(store: CellStore, wanted: NDArray[np.bool_]) -> Iterator[Any]:
    """Names of the cells where ``wanted`` (n_cells,) is true, in the store's order, read by slabs."""
    for start in range(0, store.n_cells, NAMES_AT_ONCE):
        stop = min(start + NAMES_AT_ONCE, store.n_cells)
        yield from store.obs_names(start, stop)[wanted[start:stop]]


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
        raise ValueError(
            f"{uri} has no obs column {column!r}. Its columns: {', '.join(columns) or 'none at all'}."
        )


def pick_layer(layer: str | None, layers: tuple[str, ...], *, has_x: bool, uri: str) -> None:
    """Raise ValueError naming the layers there are unless counts can be read from the one asked for."""
    known = f"Its layers: {', '.join(layers) or 'none'}."
    if layer is None and not has_x:
        raise ValueError(f"{uri} has no X. Name the layer that holds raw counts. {known}")
    if layer is not None and layer not in layers:
        raise ValueError(f"{uri} has no layer {layer!r}. {known}")
