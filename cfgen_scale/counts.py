"""Counts on the device: the non-zeros travel, the dense matrix is made where it is needed."""

from dataclasses import dataclass

import torch
from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class SparseCounts:
    """Raw counts of B cells and G features as coordinates of the non-zeros.

    cells, features (nnz,) int64; values (nnz,) float32, all > 0; shape (B, G).
    """

    cells: torch.Tensor
    features: torch.Tensor
    values: torch.Tensor
    shape: tuple[int, int]

    @staticmethod
    def from_csr(counts: csr_matrix, device: torch.device | str = "cpu") -> "SparseCounts":
        """Copy a CSR matrix ``(B, G)`` to ``device``; explicit zeros are kept out."""
        if counts.nnz and not counts.data.all():
            counts = counts.copy()
            counts.eliminate_zeros()
        per_cell = torch.from_numpy(counts.indptr[1:] - counts.indptr[:-1]).to(device, torch.int64)
        cells = torch.repeat_interleave(torch.arange(counts.shape[0], device=device), per_cell)
        features = torch.from_numpy(counts.indices.astype("int64", copy=False)).to(device)
        values = torch.from_numpy(counts.data.astype("float32", copy=False)).to(device)
        return SparseCounts(cells, features, values, (int(counts.shape[0]), int(counts.shape[1])))

    @property
    def flat(self) -> torch.Tensor:
        """Place of each non-zero in the row-major dense matrix, (nnz,) int64."""
        return self.cells * self.shape[1] + self.features

    def dense(self) -> torch.Tensor:
        """The counts as a dense float32 matrix ``(B, G)``."""
        dense = torch.zeros(self.shape[0] * self.shape[1], dtype=torch.float32, device=self.values.device)
        dense[self.flat] = self.values
        return dense.view(self.shape)

    def totals(self) -> torch.Tensor:
        """Library size of each cell, (B,) float32."""
        zeros = torch.zeros(self.shape[0], dtype=torch.float32, device=self.values.device)
        return zeros.index_add(0, self.cells, self.values)
