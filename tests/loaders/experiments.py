"""SOMA experiments made from an AnnData, part by part, in the layout that tiledbsoma.io gives them.

tiledbsoma.io itself cannot be used: with the anndata and pandas of today it refuses or warns.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import tiledbsoma
from anndata import AnnData
from numpy.typing import NDArray
from scipy.sparse import coo_matrix


def write_experiment(
    adata: AnnData,
    path: Path,
    *,
    layers: Mapping[str, Any] | None = None,
    measurement: str = "RNA",
    cells: NDArray[np.int64] | None = None,
    genes: NDArray[np.int64] | None = None,
    cell_names: str = "obs_id",
    gene_names: str = "var_id",
) -> Path:
    """An experiment at ``path`` with X in layer "counts", or with ``layers``; ascending joinids if given."""
    cells = np.arange(adata.n_obs) if cells is None else cells
    genes = np.arange(adata.n_vars) if genes is None else genes
    with tiledbsoma.Experiment.create(str(path)) as experiment:
        _add_frame(experiment, "obs", adata.obs, cells, cell_names)
        experiment.add_new_collection("ms")
        _add_measurement(experiment, measurement, adata, layers, cells, genes, gene_names)
    return path


def add_measurement(path: Path, measurement: str, adata: AnnData) -> None:
    """Add counts of the same cells, in their order, to an experiment."""
    with tiledbsoma.Experiment.open(str(path), "w") as experiment:
        cells, genes = np.arange(adata.n_obs), np.arange(adata.n_vars)
        _add_measurement(experiment, measurement, adata, None, cells, genes, "var_id")


def _add_measurement(
    experiment: Any,
    name: str,
    adata: AnnData,
    layers: Mapping[str, Any] | None,
    cells: NDArray[np.int64],
    genes: NDArray[np.int64],
    gene_names: str,
) -> None:
    measured = experiment.ms.add_new_collection(name, tiledbsoma.Measurement)
    _add_frame(measured, "var", adata.var, genes, gene_names)
    matrices = measured.add_new_collection("X")
    for layer, counts in (layers or {"counts": adata.X}).items():
        _add_layer(matrices, layer, coo_matrix(counts), cells, genes)


def _add_frame(parent: Any, name: str, frame: pd.DataFrame, joinids: NDArray[np.int64], index: str) -> None:
    columns = {"soma_joinid": pa.array(joinids), index: pa.array(list(frame.index), pa.large_string())}
    table = pa.table(columns | {column: _arrow(frame[column]) for column in frame})
    uri = f"{parent.uri}/{name}"
    # Created and written at two times: at one, which add_new_dataframe would mean, TileDB may lose the
    # categories.
    domain = [[0, int(joinids.max(initial=0))]]
    tiledbsoma.DataFrame.create(uri, schema=table.schema, domain=domain).close()
    if len(table):
        with tiledbsoma.DataFrame.open(uri, "w") as written:
            written.write(table)
    parent.set(name, tiledbsoma.DataFrame.open(uri), use_relative_uri=True)


def _arrow(column: pd.Series) -> pa.Array:
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return pa.array(column.tolist())
    codes = np.asarray(column.cat.codes, dtype=np.int32)
    categories = pa.array(list(map(str, column.cat.categories)), pa.large_string())
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), categories)


def _add_layer(
    parent: Any, name: str, counts: coo_matrix, cells: NDArray[np.int64], genes: NDArray[np.int64]
) -> None:
    shape = (int(cells.max(initial=0)) + 1, int(genes.max(initial=0)) + 1)
    layer = parent.add_new_sparse_ndarray(name, type=pa.from_numpy_dtype(counts.dtype), shape=shape)
    coordinates = {"soma_dim_0": cells[counts.row], "soma_dim_1": genes[counts.col]}
    layer.write(pa.table({**coordinates, "soma_data": counts.data}))
