"""Cells copied into the packed form, in the order of their source or shuffled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.layout import Codec
from loaders.preparation.packed import PackedWriter
from loaders.preparation.shuffle import CellShuffle
from loaders.stores.anndata_store import open_zarr


class CellCopy:
    """The cells kept, on their way into the packed atlas ``path``: in the order of the source, or shuffled.

    ``shuffle_seed`` None keeps the order; ``n_rows`` are the rows of the source, of which some may be
    dropped; the rest is as in `PackedWriter`.
    """

    def __init__(
        self,
        path: Path,
        *,
        codec: Codec,
        shuffle_seed: int | None,
        features: Sequence[str],
        n_rows: int,
        nnz: int,
        largest_count: int,
    ) -> None:
        self._writer = PackedWriter(
            path, features=features, nnz=nnz, largest_count=largest_count, codec=codec
        )
        self._shuffle = None
        if shuffle_seed is not None:
            self._shuffle = CellShuffle(
                path.with_name(f"{path.name}.buckets"),
                n_rows=n_rows,
                n_features=len(features),
                nnz=nnz,
                largest_count=largest_count,
                seed=shuffle_seed,
            )

    def append(self, rows: IntArray, counts: csr_matrix) -> None:
        """Add counts (b, G) of ``rows`` (b,) of the source, which ascend from call to call."""
        if self._shuffle:
            self._shuffle.append(rows, counts)
        else:
            self._writer.append(counts)

    def order(self, kept: IntArray) -> IntArray:
        """(n,) which of the cells kept, by rows of the source, comes first, second and so on in the copy."""
        return np.argsort(self._shuffle.places(kept)) if self._shuffle else np.arange(len(kept))

    def finish(self, obs: pd.DataFrame) -> None:
        """Write what is left; ``obs`` in the order of the copy."""
        for counts in self._shuffle.shuffled() if self._shuffle else ():
            self._writer.append(counts)
        self._writer.finish(obs)

    def identity(self) -> dict[str, Any]:
        """`CellStore.identity` of what was written."""
        return open_zarr(str(self._writer.path)).identity()
