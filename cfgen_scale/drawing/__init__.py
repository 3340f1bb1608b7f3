"""Counts drawn exactly, each a function of its cell's key and its feature, straight into CSR."""

from .decoded import draw_decoded
from .distributions import Distribution, Thetas
from .on_device import draw_counts_on_device
from .on_processor import draw_counts

__all__ = ["Distribution", "Thetas", "draw_counts", "draw_counts_on_device", "draw_decoded"]
