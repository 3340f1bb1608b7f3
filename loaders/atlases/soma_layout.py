"""Where everything is in the TileDB-SOMA experiment of a generated atlas, and the experiment laid out.

obs and var are as in the atlas, joinids are places from 0; a measurement for each modality ("RNA" for "rna")
holds its counts in X["counts"], the first also the latents in obsm["X_cfgen"]. Laid out, it has all
collections and all arrays in their final shapes, the categories of obs, and var; no cells.
"""

import time
from typing import Any

import numpy as np
import pandas as pd

from ..stores.soma_frames import CELL_NAMES, FEATURE_NAMES, JOINID
from ..stores.soma_store import DEFAULT_MEASUREMENT
from ..stores.store import RNA
from .generated_atlas import GeneratedAtlas
from .generated_layout import LATENT_KEY, CellSlab, counts_path, obs_frame

LAYER = "counts"
OBS = "obs"


def measurement_of(modality: str) -> str:
    """The name of a modality's measurement."""
    return DEFAULT_MEASUREMENT if modality == RNA else modality


def counts_array(modality: str) -> str:
    """Where the counts of a modality are, below the experiment."""
    return f"ms/{measurement_of(modality)}/X/{LAYER}"


def latents_array(modality: str) -> str:
    """Where the latents are; ``modality`` is the first one."""
    return f"ms/{measurement_of(modality)}/obsm/{LATENT_KEY}"


def obs_table(slab: CellSlab, source: GeneratedAtlas) -> Any:
    """A pyarrow table of obs of some cells of the atlas."""
    frame = obs_frame(slab, source.schema, source.n_cells)
    frame.insert(0, CELL_NAMES[0], frame.index.to_numpy(dtype=object))
    return _arrow(frame, slab.first)


def lay_out_experiment(source: GeneratedAtlas, uri: str, timestamp: int) -> None:
    """Make the experiment of the atlas at ``uri``, where there is nothing, as of ``timestamp``, milliseconds.

    TileDB dates the schemas of arrays and their categories by the clock whatever it is told.
    """
    import pyarrow as pa
    import tiledbsoma

    obs = obs_table(CellSlab.empty(0, 0, source.schema, 0), source).schema
    with tiledbsoma.Experiment.create(uri, tiledb_timestamp=timestamp) as experiment:
        experiment.add_new_dataframe(OBS, schema=obs, domain=[[0, source.n_cells - 1]])
        measurements = experiment.add_new_collection("ms")
        for m, modality in enumerate(source.schema.modalities):
            measurement = measurements.add_new_collection(
                measurement_of(modality.name), tiledbsoma.Measurement
            )
            var = _arrow(pd.DataFrame({FEATURE_NAMES[0]: list(modality.features)}), 0)
            domain = [[0, len(modality.features) - 1]]
            measurement.add_new_dataframe("var", schema=var.schema, domain=domain).write(var)
            data = source.array(f"{counts_path(source.schema, m)}/data")
            shape = (source.n_cells, len(modality.features))
            measurement.add_new_collection("X").add_new_sparse_ndarray(
                LAYER, type=pa.from_numpy_dtype(data.dtype), shape=shape
            )
            if m == 0:
                latent = tuple(source.array(f"obsm/{LATENT_KEY}").shape)
                obsm = measurement.add_new_collection("obsm")
                obsm.add_new_dense_ndarray(LATENT_KEY, type=pa.float32(), shape=latent)
    _tell_categories(source, f"{uri}/{OBS}", timestamp)


def _tell_categories(source: GeneratedAtlas, uri: str, timestamp: int) -> None:
    """Give obs its categories once and for all: tasks that had to add them at once would lose some."""
    import pyarrow as pa
    import tiledbsoma

    if not source.schema.covariates:
        return
    # Within one millisecond TileDB does not know which of two schemas is the newer one.
    time.sleep(0.002)
    categories = {c.name: pa.array(list(c.categories), pa.large_string()) for c in source.schema.covariates}
    with tiledbsoma.DataFrame.open(uri, "w", tiledb_timestamp=timestamp) as frame:
        frame.extend_enumeration_values(categories)


def _arrow(frame: pd.DataFrame, first: int) -> Any:
    """A table of a slab's columns behind its joinids, as one batch: a batch is a fragment."""
    import pyarrow as pa

    columns = {JOINID: pa.array(np.arange(first, first + len(frame), dtype=np.int64))}
    for name in map(str, frame):
        column = frame[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            codes = column.cat.codes.to_numpy().astype(np.int32)
            categories = pa.array(list(column.cat.categories), pa.large_string())
            columns[name] = pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), categories)
        elif column.dtype == object or isinstance(column.dtype, pd.StringDtype):
            columns[name] = pa.array(column.tolist(), pa.large_string())
        else:
            columns[name] = pa.array(column.to_numpy())
    return pa.table(columns)
