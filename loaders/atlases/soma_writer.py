"""A finished generated atlas written once more as a TileDB-SOMA experiment, slab by slab.

Each slab is one write, hence one fragment, of whole tiles of TileDB-SOMA's default layout. tiledbsoma.io,
which could convert an AnnData held in memory, is not used. The experiment is made under another name and
renamed when it is whole.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from ..aside import written_aside
from ..layout import SHARD_OF_CELLS
from ..stores.soma_errors import first_line
from ..stores.soma_frames import CELL_NAMES, FEATURE_NAMES, JOINID
from ..stores.soma_slabs import SLAB_CELLS
from ..stores.soma_store import DEFAULT_MEASUREMENT
from ..stores.store import RNA
from .generated_atlas import GeneratedAtlas
from .generated_layout import LATENT_KEY, PROVENANCE_KEY, counts_path, obs_frame

COUNTS_AT_ONCE = 2**22
LAYER = "counts"


def write_soma(atlas: str | Path, out: str | Path, *, progress: bool = False) -> Path:
    """Write the generated atlas ``atlas`` as a TileDB-SOMA experiment at ``out``.

    obs and var are as in the atlas, joinids are places from 0; a measurement for each modality ("RNA" for
    "rna") holds its counts in X["counts"]; the first also the latents in obsm["X_cfgen"]; the provenance is
    metadata of the experiment. Memory is some 0.5 GB beside the libraries. Raises
    FileNotFoundError or FileExistsError for what is no generated atlas, ValueError for one without counts,
    FileExistsError if there is something at ``out``, OSError if the disk is full; nothing is left at ``out``
    then.
    """
    source, out = GeneratedAtlas.open(atlas), Path(out).absolute()
    if source.content == "latents":
        raise ValueError(f"{atlas} holds latents and no counts. Decode it first: cfgen-scale decode.")
    if out.exists():
        raise FileExistsError(f"{out} exists. Choose another path, or delete it first.")
    with written_aside(out, to_make_room="the atlas itself stays as it is") as partial:
        # TileDB makes the directory itself.
        partial.rmdir()
        with _said_clearly(out):
            _write_experiment(source, str(partial), progress)
    return out


def read_soma_provenance(experiment: str | Path) -> dict[str, Any]:
    """The provenance that `write_soma` wrote, and the schema; {} of an experiment that it did not write.

    Raises FileExistsError if there is something else at that path.
    """
    import tiledbsoma

    try:
        with tiledbsoma.Experiment.open(str(experiment)) as opened:
            texts = {
                name: text for name, text in opened.metadata.items() if name.startswith(f"{PROVENANCE_KEY}.")
            }
    except (tiledbsoma.SOMAError, TypeError) as error:
        raise FileExistsError(f"{experiment} is no SOMA experiment: {error}") from error
    return {name.removeprefix(f"{PROVENANCE_KEY}."): json.loads(text) for name, text in texts.items()}


@contextmanager
def _said_clearly(out: Path) -> Iterator[None]:
    """Errors of TileDB, a full disk among them, as an OSError of one line."""
    import tiledbsoma

    try:
        yield
    except tiledbsoma.SOMAError as error:
        raise OSError(
            f"{out} could not be written: {first_line(error)} What was begun was removed; the atlas itself "
            f"stays as it is. Run the same again when that is mended."
        ) from error


def _write_experiment(source: GeneratedAtlas, uri: str, progress: bool) -> None:
    import tiledbsoma

    with tiledbsoma.Experiment.create(uri) as experiment:
        for name, document in {**source.provenance, "schema": source.schema.to_json()}.items():
            experiment.metadata[f"{PROVENANCE_KEY}.{name}"] = json.dumps(document, sort_keys=True)
        _write_obs(source, experiment, progress)
        measurements = experiment.add_new_collection("ms")
        for m, modality in enumerate(source.schema.modalities):
            name = DEFAULT_MEASUREMENT if modality.name == RNA else modality.name
            measurement = measurements.add_new_collection(name, tiledbsoma.Measurement)
            features = pd.DataFrame({FEATURE_NAMES[0]: list(modality.features)})
            _add_frame(measurement, "var", len(features), [features])
            _write_counts(source, measurement.add_new_collection("X"), m, progress)
            if m == 0:
                _write_latents(source, measurement.add_new_collection("obsm"))


def _write_obs(source: GeneratedAtlas, experiment: Any, progress: bool) -> None:
    slabs = tqdm(_slabs(source.n_cells, SHARD_OF_CELLS), desc="obs", unit=" slabs", disable=not progress)
    _add_frame(experiment, "obs", source.n_cells, (_obs_of(source, begin, end) for begin, end in slabs))


def _obs_of(source: GeneratedAtlas, begin: int, end: int) -> pd.DataFrame:
    frame = obs_frame(source.read_cells(slice(begin, end)), source.schema, source.n_cells)
    frame.insert(0, CELL_NAMES[0], frame.index.to_numpy(dtype=object))
    return frame


def _add_frame(
    parent: Any, name: str, n_rows: int, slabs: Iterator[pd.DataFrame] | list[pd.DataFrame]
) -> None:
    """A SOMADataFrame of ``n_rows`` rows that come in slabs."""
    import tiledbsoma

    uri, created, first = f"{parent.uri}/{name}", False, 0
    for slab in slabs:
        table = _arrow(slab, first)
        first += len(slab)
        if not created:
            # Created and written at two times: at one, TileDB may lose the categories.
            domain = [[0, n_rows - 1]]
            tiledbsoma.DataFrame.create(uri, schema=table.schema, domain=domain).close()
            created = True
        with tiledbsoma.DataFrame.open(uri, "w") as frame:
            frame.write(table)
    parent.set(name, tiledbsoma.DataFrame.open(uri), use_relative_uri=True)


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


def _write_counts(source: GeneratedAtlas, matrices: Any, m: int, progress: bool) -> None:
    import pyarrow as pa

    path, shape = counts_path(source.schema, m), (source.n_cells, len(source.schema.modalities[m].features))
    data, indices, indptr = (source.array(f"{path}/{name}") for name in ("data", "indices", "indptr"))
    layer = matrices.add_new_sparse_ndarray(LAYER, type=pa.from_numpy_dtype(data.dtype), shape=shape)
    a_tile = max(int(data.shape[0]) * SLAB_CELLS // source.n_cells, 1)
    cells_at_once = SLAB_CELLS * max(COUNTS_AT_ONCE // a_tile, 1)
    name = source.schema.modalities[m].name
    with tqdm(total=source.n_cells, unit=" cells", desc=f"counts of {name}", disable=not progress) as bar:
        for begin, end in _slabs(source.n_cells, cells_at_once):
            pointers = indptr[begin : end + 1].astype(np.int64)
            counts = slice(int(pointers[0]), int(pointers[-1]))
            if counts.start < counts.stop:
                rows = np.repeat(np.arange(begin, end), np.diff(pointers))
                columns = indices[counts].astype(np.int64)
                layer.write(pa.table({"soma_dim_0": rows, "soma_dim_1": columns, "soma_data": data[counts]}))
            bar.update(end - begin)


def _write_latents(source: GeneratedAtlas, arrays: Any) -> None:
    import pyarrow as pa

    latent = source.array(f"obsm/{LATENT_KEY}")
    stored = arrays.add_new_dense_ndarray(LATENT_KEY, type=pa.float32(), shape=tuple(latent.shape))
    for begin, end in _slabs(source.n_cells, SHARD_OF_CELLS):
        values = np.ascontiguousarray(latent[begin:end])
        stored.write((slice(begin, end - 1), slice(None)), pa.Tensor.from_numpy(values))


def _slabs(n_cells: int, cells_at_once: int) -> list[tuple[int, int]]:
    return [(begin, min(begin + cells_at_once, n_cells)) for begin in range(0, n_cells, cells_at_once)]
