"""Columns of a table of cells, read in slabs: .csv, .tsv, .parquet, or the obs of a .h5ad or AnnData-Zarr."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from loaders.stores.annotations import SEPARATORS
from loaders.stores.hdf5 import open_hdf5
from loaders.stores.store import categorical

SLAB_ROWS = 1_000_000


def obs_columns(path: str | Path) -> tuple[str, ...]:
    """Names of the columns. Raises FileNotFoundError, or ValueError for what is no table of cells."""
    path = Path(path)
    match _kind(path):
        case "parquet":
            import pyarrow.parquet

            return tuple(pyarrow.parquet.read_schema(path).names)
        case "anndata":
            return tuple(str(name) for name in _obs(path).attrs["column-order"])
    return tuple(map(str, pd.read_csv(path, sep=_separator(path), nrows=0).columns))


def read_obs(path: str | Path, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """The table's rows in order, at most `SLAB_ROWS` at a time, of the columns named.

    Text of .csv and .tsv stays text, a missing value is NaN or code -1. Of an AnnData each column is read
    as a whole and held as codes or numbers: some bytes a row. Raises as `obs_columns`.
    """
    path = Path(path)
    match _kind(path):
        case "parquet":
            yield from _parquet_slabs(path, columns)
        case "anndata":
            yield from _anndata_slabs(path, columns)
        case _:
            yield from pd.read_csv(
                path, sep=_separator(path), usecols=list(columns), dtype=str, chunksize=SLAB_ROWS
            )


def _kind(path: Path) -> str:
    if not path.exists():
        raise FileNotFoundError(f"there is no table of cells at {path}. Check the path.")
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    kind = suffixes[-1].lower() if suffixes else ""
    if path.is_dir() or kind == ".h5ad":
        return "anndata"
    if kind != ".parquet" and kind not in SEPARATORS:
        raise ValueError(
            f"{path} is no table of cells: give a {', '.join(SEPARATORS)} or .parquet file, a .h5ad or the "
            "directory of an AnnData-Zarr."
        )
    return kind.removeprefix(".")


def _separator(path: Path) -> str:
    return SEPARATORS[next(suffix for suffix in reversed(path.suffixes) if suffix != ".gz")]


def _parquet_slabs(path: Path, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=SLAB_ROWS, columns=list(columns)):
            yield pd.DataFrame({name: batch.column(name).to_pandas() for name in columns})


def _anndata_slabs(path: Path, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    from anndata.io import read_elem

    obs = _obs(path)
    whole = pd.DataFrame({name: _narrowed(read_elem(obs[name])) for name in columns})
    for first in range(0, len(whole), SLAB_ROWS):
        yield whole.iloc[first : first + SLAB_ROWS]


def _narrowed(values: Any) -> Any:
    """Numbers as they are, all else as categories: a code instead of a text for each row."""
    return values if pd.api.types.is_numeric_dtype(values) else categorical(values)


def _obs(path: Path) -> Any:
    """The group of obs of an AnnData on disk."""
    import zarr

    try:
        group = zarr.open_group(path, mode="r") if path.is_dir() else open_hdf5(str(path))
    except (zarr.errors.GroupNotFoundError, FileNotFoundError):
        raise ValueError(f"{path} is no AnnData-Zarr: there is no Zarr group in it.") from None
    if "obs" not in group or "column-order" not in group["obs"].attrs:
        raise ValueError(f"{path} is no AnnData: it has no obs with columns.")
    return group["obs"]
