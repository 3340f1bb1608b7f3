"""The bytes: stores of cells, the order in which they are read, and what is written back."""

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
