"""Which reader answers for which path, URL or object."""

from pathlib import Path
from typing import TypedDict

from anndata import AnnData

from loaders.anndata_store import open_h5ad, open_zarr
from loaders.memory_store import MemoryStore
from loaders.store import CellStore

TILEDB_MARKS = ("__tiledb_group.tdb", "__group", "__schema")  # what a group or an array of TileDB holds
TILEDB_SCHEMES = ("s3", "gs", "gcs", "azure", "tiledb", "file")


class SomaOptions(TypedDict, total=False):
    """What `open_store` may be told of a SOMA experiment, beside the layer."""

    measurement: str | None
    obs_filter: str | None
    feature_column: str | None


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
