"""The order of cells, and batches in that order."""
