"""What is written of a prepared atlas beside its counts: index (arrays by cell and gene) and manifest."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from cfgen_scale.types import AtlasSchema, Covariate, IntArray
from loaders.layout import write_array
from loaders.preparation.counts_preparation import PreparedCounts
from loaders.preparation.manifest import INDEX, MANIFEST, VERSION
from loaders.preparation.prepare_request import PrepareRequest, notes_on
from loaders.preparation.prepared import unique_names
from loaders.preparation.scan import arrangement_digest, content_digest
from loaders.preparation.split import SPLITS, TRAIN, SplitCodes, require_cells
from loaders.preparation.statistics import atlas_statistics, statistics_to_json
from loaders.stores.stacked_store import StackedStore
from loaders.stores.store import categorical, names_of


def write_prepared(
    path: Path,
    store: StackedStore,
    modalities: list[PreparedCounts],
    split: SplitCodes,
    request: PrepareRequest,
    described: list[dict[str, Any]],
) -> None:
    """Finish the copies of ``modalities``, if there are any, and write the index and, last, the manifest into
    the directory ``path``. ``split`` is that of all rows of ``store``, the first modality's."""
    is_kept = modalities[0].cells.kept
    kept = np.flatnonzero(is_kept)
    require_cells(split[kept], request.split)
    labels = {name: categorical(store.obs_column(name)[kept]) for name in request.labels}
    order = modalities[0].order(kept)
    if any(modality.copy for modality in modalities):
        names = unique_names(np.array(list(names_of(store, is_kept)), dtype=object))
        obs = pd.DataFrame(labels, index=pd.Index(names, dtype=object)).iloc[order]
        for modality in modalities:
            modality.finish(obs)
    codes = [np.asarray(values.codes) for values in labels.values()]
    label_codes = np.stack(codes, axis=1) if codes else np.zeros((len(kept), 0), dtype=np.int8)
    _write_index(path / INDEX, kept[order], split[kept[order]], label_codes[order], modalities)
    schema = AtlasSchema(
        modalities=tuple(modality.modality for modality in modalities),
        covariates=tuple(Covariate(name, tuple(values.categories)) for name, values in labels.items()),
    )
    manifest = {
        "version": VERSION,
        "request": asdict(request),
        "sources": described,
        "notes": notes_on(described, stores=store.stores) + [note for m in modalities for note in m.notes()],
        "cells_dropped": store.n_cells - len(kept),
        "modalities": [modality.entry() for modality in modalities],
        **_description(schema, split[kept], label_codes.astype(np.int64), modalities, kept),
    }
    manifest["arrangement"] = arrangement_digest(manifest["digest"], order)
    (path / MANIFEST).write_text(json.dumps(manifest, indent=1))


def _description(
    schema: AtlasSchema,
    split: SplitCodes,
    labels: IntArray,
    modalities: list[PreparedCounts],
    kept: IntArray,
) -> dict[str, Any]:
    """What the manifest says of the cells kept: schema, numbers, statistics of the training cells, digest."""
    is_training = split == TRAIN
    statistics = atlas_statistics(
        schema,
        labels=labels[is_training],
        totals=_totals(modalities, kept)[is_training],
        feature_totals=tuple(modality.cells.feature_totals for modality in modalities),
    )
    return {
        "schema": schema.to_json(),
        "cells": len(kept),
        "cells_by_split": {name: int((split == code).sum()) for code, name in enumerate(SPLITS)},
        "statistics": statistics_to_json(statistics),
        "digest": content_digest([m.cells.counts_digest for m in modalities], schema, labels, split),
    }


def _write_index(
    path: Path,
    kept: IntArray,
    split: SplitCodes,
    labels: NDArray[Any],
    modalities: list[PreparedCounts],
) -> None:
    index = zarr.create_group(path, zarr_format=3)
    write_array(index, "source_rows", kept, gaps=True)
    write_array(index, "split", split)
    write_array(index, "labels", labels)
    write_array(index, "totals", _totals(modalities, kept))
    for modality in modalities:
        modality.write_index(index.create_group(modality.name), kept)


def _totals(modalities: list[PreparedCounts], kept: IntArray) -> NDArray[np.float64]:
    """Total counts (n, S) of the cells kept, of the modalities that have size factors."""
    counted = [modality for modality in modalities if modality.modality.counted]
    return np.array([m.cells.totals[kept] for m in counted]).reshape(len(counted), len(kept)).T
