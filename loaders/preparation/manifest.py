"""The manifest of a prepared atlas, and the stores of counts that it names, unchanged since."""

import json
from pathlib import Path
from typing import Any

from loaders.stores.anndata_store import AnnDataStore, open_zarr
from loaders.stores.collection import leaves
from loaders.stores.csr_arrays import CsrCaches
from loaders.stores.identity import require_identity
from loaders.stores.opening import open_store
from loaders.stores.source_options import SourceOptions
from loaders.stores.stacked_store import StackedStore
from loaders.stores.store import RNA, CellStore

MANIFEST = "prepared.json"
INDEX = "index.zarr"
VERSION = 3


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a prepared atlas. Raises FileNotFoundError or ValueError saying what there is."""
    if not path.exists():
        raise FileNotFoundError(f"there is no prepared atlas at {path}. Make one: cfgen-scale prepare.")
    if not (path / MANIFEST).exists():
        raise ValueError(f"{path} is not a prepared atlas: it has no {MANIFEST}. Make one with prepare.")
    manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text())
    if manifest.get("version") != VERSION:
        raise ValueError(
            f"{path} is of version {manifest.get('version')} and this program reads version {VERSION}: "
            f"prepare it again."
        )
    return manifest


def cells_of(modality: str) -> str:
    """Name, in the directory of a prepared atlas, of the packed cells of a modality."""
    return "cells.zarr" if modality == RNA else f"cells-{modality}.zarr"


def open_counts(path: Path, manifest: dict[str, Any], entry: dict[str, Any]) -> AnnDataStore | StackedStore:
    """The counts of the modality ``entry``: our own copy, or its sources, which must be what they were."""
    if not entry["in_place"]:
        return _open_copy(path / cells_of(entry["name"]), entry)
    sources = [s for s in manifest["sources"] if s["modality"] == entry["name"]]
    caches = CsrCaches.split() if len(manifest["sources"]) > 1 else None
    stores = [_open_source(path, source, manifest["request"], caches) for source in sources]
    return StackedStore(leaves(stores))


def _open_copy(path: Path, entry: dict[str, Any]) -> AnnDataStore:
    store = open_zarr(str(path), is_canonical=True)
    now = store.identity()
    require_identity(entry["copy"], now, what=str(path), remedy="Prepare the atlas again")
    return store


def _open_source(
    path: Path, source: dict[str, Any], request: dict[str, Any], caches: CsrCaches | None
) -> CellStore:
    remedy = f"{path} reads it in place: put it back, or prepare again (repack=True copies the cells)"
    try:
        options = SourceOptions.of_request(request).of(source["modality"])
        store = open_store(source["uri"], **options, caches=caches)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the source {source['uri']} has vanished. {remedy}.") from error
    what = f"the source {source['uri']}"
    require_identity(source["identity"], store.identity(), what=what, remedy=remedy)
    return store
