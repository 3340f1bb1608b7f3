"""The bytes: stores of cells, the order in which they are read, and what is written back."""

from loaders.opening import open_store
from loaders.order import Order
from loaders.prepare import prepare
from loaders.prepared import Prepared
from loaders.store import CellStore
from loaders.stream import CellStream, in_order

__all__ = ["CellStore", "CellStream", "Order", "Prepared", "in_order", "open_store", "prepare"]
