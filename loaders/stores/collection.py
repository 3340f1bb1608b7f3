"""A folder of stores as one store: shards of an atlas, or one file a sample, in the natural order of names.

Shards are AnnData-Zarr (``dataset_0``, ``dataset_1``, ... as annbatch writes them, or any ``*.zarr``), h5ad
files, or what Cell Ranger leaves; all of one kind. ``dataset_2`` comes before ``dataset_10``.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zarr

from loaders.stores.identity import SHARDS
from loaders.stores.stacked_store import StackedStore
from loaders.stores.store import CellStore

FILES = (".h5ad", ".h5")
ZARR_MARKS = ("zarr.json", ".zgroup")


class CollectionStore(StackedStore):
    """`CellStore` over the stores ``names`` of the folder or group ``uri``; kind is "KIND-collection".

    Raises ValueError unless they are of one kind, SchemaError unless they have the same genes.
    """

    def __init__(self, uri: str, names: Sequence[str], stores: Sequence[CellStore]) -> None:
        kinds = {store.kind: name for name, store in zip(names, stores, strict=True)}
        if len(kinds) > 1:
            examples = ", ".join(f"{name} is {kind}" for kind, name in kinds.items())
            raise ValueError(
                f"{uri} holds stores of several kinds ({examples}), which may be the same cells twice. Name "
                f"those you want one by one."
            )
        super().__init__(stores)
        self.uri = uri
        self.kind = f"{stores[0].kind}-collection"
        self._names = tuple(names)

    def identity(self) -> dict[str, Any]:
        identities = (store.identity() for store in self.stores)
        return {SHARDS: dict(zip(self._names, identities, strict=True))}


def has_parts_of_anndata(path: Path) -> bool:
    """Whether a directory holds obs, var or X: an AnnData-Zarr, whole or not."""
    return any((path / part).exists() for part in ("obs", "var", "X"))


def is_zarr_group(path: Path) -> bool:
    """Whether a directory is marked as a group of Zarr."""
    return any((path / mark).exists() for mark in ZARR_MARKS)


def names_in_folder(path: Path) -> list[str]:
    """Names of what may be stores in a folder, in natural order: all directories, and files of `FILES`."""
    entries = (entry for entry in path.iterdir() if not entry.name.startswith((".", "__")))
    return in_natural_order(e.name for e in entries if e.is_dir() or e.suffix in FILES)


def names_in_group(url: str) -> list[str]:
    """Names of the groups of a Zarr group at a URL that is not an AnnData-Zarr itself, in natural order;
    empty if it is one, or if there is no group."""
    try:
        group = zarr.open_group(url, mode="r")
    except (FileNotFoundError, zarr.errors.GroupNotFoundError):
        return []
    names = list(group.group_keys())
    return [] if {"obs", "var"} & set(names) else in_natural_order(names)


def in_natural_order(names: Any) -> list[str]:
    """Sorted, with numbers in names compared as numbers."""
    return sorted(names, key=lambda name: ([_part(part) for part in re.split(r"(\d+)", name)], name))


def _part(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdecimal() else (-1, part)


def leaves(stores: Sequence[CellStore]) -> list[CellStore]:
    """The stores, with collections taken apart."""
    return [
        leaf for store in stores for leaf in (store.stores if isinstance(store, StackedStore) else [store])
    ]
