"""The obs and var of a SOMA experiment: which rows are wanted, and what they are called."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cfgen_scale.types import IntArray
from loaders.stores.soma_errors import first_line, readable

JOINID = "soma_joinid"
CELL_NAMES = ("obs_id",)
FEATURE_NAMES = ("var_id", "feature_id", "feature_name")


def columns_of(frame: Any) -> tuple[str, ...]:
    return tuple(name for name in frame.schema.names if name != JOINID)


def name_column(frame: Any, usual: Sequence[str]) -> str | None:
    """The column with the names of rows: an index, the one recorded on writing, or a usual one."""
    # tiledbsoma.io writes the name that the index of the AnnData had, as JSON.
    recorded = json.loads(frame.metadata.get("soma_dataframe_original_index_name", "null"))
    columns = columns_of(frame)
    candidates = (*frame.index_column_names, recorded, *usual)
    return next((name for name in candidates if name in columns), None)


def selected_joinids(obs: Any, obs_filter: str | None, uri: str) -> IntArray:
    """Joinids (N,) of the cells for which the filter holds, ascending."""
    import tiledbsoma

    if obs_filter is None:
        with readable(obs.uri):
            return _some(obs.read(column_names=[JOINID]).concat(), "obs is empty", uri)
    try:
        table = obs.read(column_names=[JOINID], value_filter=obs_filter).concat()
    except tiledbsoma.SOMAError as error:
        raise ValueError(
            f"the obs filter {obs_filter!r} does not work on {uri}: {first_line(error)} "
            f"Its columns: {', '.join(columns_of(obs))}. A filter compares columns with values, "
            f"such as tissue == 'lung' and is_primary_data == True."
        ) from error
    return _some(table, f"the obs filter {obs_filter!r} selects none", uri)


def _some(table: Any, why_none: str, uri: str) -> IntArray:
    joinids: IntArray = np.sort(table[JOINID].to_numpy())
    if not len(joinids):
        raise ValueError(f"{uri} has no cells to read: {why_none}.")
    return joinids


def features_of(var: Any, column: str | None, uri: str) -> tuple[IntArray, tuple[str, ...]]:
    """Joinids (G,), ascending, and names of the features."""
    columns = columns_of(var)
    if column not in columns:
        what = "name the var column" if column is None else f"there is no var column {column!r}"
        raise ValueError(
            f"{uri}: {what} that holds the names of features. Its columns: {', '.join(columns)}."
        )
    table = var.read(column_names=[JOINID, column]).concat()
    joinids = table[JOINID].to_numpy()
    if not len(joinids):
        raise ValueError(f"{uri} has no features: var is empty.")
    order = np.argsort(joinids)
    return joinids[order], tuple(map(str, table[column].to_pandas().iloc[order]))


def annotations(frame: Any, column: str, joinids: IntArray, *, value_filter: str | None) -> pd.Series:
    """One column of obs for the cells ``joinids`` (n,), ascending, all of which the filter selects."""
    if not len(joinids):
        return pd.Series(dtype=object)
    first, last = int(joinids[0]), int(joinids[-1])
    # A range of an index column saves reading the rest; an obs indexed by something else is read whole.
    ranges = [slice(first, last) if name == JOINID else slice(None) for name in frame.index_column_names]
    with readable(frame.uri):
        table = frame.read(ranges, column_names=[JOINID, column], value_filter=value_filter).concat()
    found = table[JOINID].to_numpy()
    order = np.argsort(found)
    places = order[np.searchsorted(found[order], joinids)]
    return table[column].to_pandas().iloc[places]
