"""Stores of cells, each read where it lies, and what opens them."""
