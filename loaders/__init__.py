"""The bytes: stores of cells, the order in which they are read, and what is written back."""

from loaders.balanced import Balance
from loaders.dense import DenseBatches
from loaders.opening import open_store
from loaders.order import Order
from loaders.prepare import prepare
from loaders.prepared import Prepared
from loaders.store import CellStore
from loaders.stream import CellStream, in_order
from loaders.torch_dataset import CellDataset

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
