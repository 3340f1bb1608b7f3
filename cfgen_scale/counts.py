"""Counts on the device: the non-zeros travel, the dense matrix is made where it is needed."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class SparseCounts:
    """Raw counts of B cells and G features: the non-zeros, cell by cell.

    begins (B + 1,) int64, the first non-zero of each cell; features (nnz,) int64; values (nnz,) float32, all
    > 0; shape (B, G).
    """

    begins: torch.Tensor
    features: torch.Tensor
    values: torch.Tensor
    shape: tuple[int, int]

    @staticmethod
    def from_csr(counts: csr_matrix, device: torch.device | str = "cpu") -> "SparseCounts":
        """Copy a CSR matrix ``(B, G)`` to ``device``, in its own narrow dtypes, which are widened there;
        explicit zeros are kept out."""
        if counts.nnz and not counts.data.all():
            counts = counts.copy()
            counts.eliminate_zeros()
        begins, features, values = (
            torch.from_numpy(part).to(device).to(dtype)
            for part, dtype in (
                (counts.indptr, torch.int64),
                (counts.indices, torch.int64),
                (counts.data, torch.float32),
            )
        )
        return SparseCounts(begins, features, values, (int(counts.shape[0]), int(counts.shape[1])))

    @property
    def density(self) -> float:
        """Share of non-zeros; 0 where there is no cell."""
        return len(self.values) / max(self.shape[0] * self.shape[1], 1)

    @cached_property
    def cells(self) -> torch.Tensor:
        """The cell of each non-zero, (nnz,) int64."""
        cells = torch.arange(self.shape[0], device=self.begins.device)
        return torch.repeat_interleave(cells, self.begins.diff(), output_size=len(self.values))

    @cached_property
    def flat(self) -> torch.Tensor:
        """Place of each non-zero in the row-major dense matrix, (nnz,) int64."""
        return self.cells * self.shape[1] + self.features

    def dense(self) -> torch.Tensor:
        """The counts as a dense float32 matrix ``(B, G)``."""
        dense = torch.zeros(self.shape[0] * self.shape[1], dtype=torch.float32, device=self.values.device)
        dense[self.flat] = self.values
        return dense.view(self.shape)

    def binarised(self) -> "SparseCounts":
        """The same non-zeros, each of them 1."""
        return replace(self, values=torch.ones_like(self.values))

    def scaled_to(self, total: float) -> "SparseCounts":
        """Each cell's counts times what makes ``total`` of their sum."""
        return replace(self, values=self.values * (total / self.totals())[self.cells])

    def totals(self) -> torch.Tensor:
        """Library size of each cell, (B,) float32."""
        zeros = torch.zeros(self.shape[0], dtype=torch.float32, device=self.values.device)
        return zeros.index_add(0, self.cells, self.values)
