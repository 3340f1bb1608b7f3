"""The bytes: stores of cells, the order in which they are read, and what is written back.

Names are looked up when they are first asked for: what a worker that writes chunks imports from here needs
neither stores nor anndata, which take it seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loaders.preparation.prepare import prepare
    from loaders.preparation.prepared import Prepared
    from loaders.stores.opening import open_store
    from loaders.stores.store import CellStore
    from loaders.streaming.balanced import Balance
    from loaders.streaming.dense import DenseBatches
    from loaders.streaming.order import Order
    from loaders.streaming.stream import CellStream, in_order
    from loaders.streaming.torch_dataset import CellDataset

__all__ = [
    "Balance",
    "CellDataset",
    "CellStore",
    "CellStream",
    "DenseBatches",
    "Order",
    "Prepared",
    "in_order",
    "open_store",
    "prepare",
]
_MODULES = {
    "Balance": "streaming.balanced",
    "CellDataset": "streaming.torch_dataset",
    "CellStore": "stores.store",
    "CellStream": "streaming.stream",
    "DenseBatches": "streaming.dense",
    "Order": "streaming.order",
    "Prepared": "preparation.prepared",
    "in_order": "streaming.stream",
    "open_store": "stores.opening",
    "prepare": "preparation.prepare",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
