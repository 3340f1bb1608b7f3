"""Writing cells as an AnnData-Zarr of our layout, slab by slab, in memory bounded by a slab and a shard."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.layout import Codec, ShardAppender, appender, consolidate, create_atlas, create_csr, write_frame


class PackedWriter:
    """A new AnnData-Zarr at ``path`` to which rows of counts are added in order; `finish` makes it whole.

    ``largest_count`` must bound every count to come, since it decides the width of a count on disk; ``nnz``
    is the number of counts to come, which decides the width of indices and row pointers. ``codec``: see
    loaders/layout.py.
    """

    def __init__(
        self,
        path: Path,
        *,
        features: Sequence[str],
        nnz: int,
        largest_count: int,
        codec: Codec = "zstd",
    ) -> None:
        self.path = path
        self._nnz = nnz
        self._features = tuple(features)
        self._root = create_atlas(path)
        shape = (0, len(self._features))
        self._group = create_csr(
            self._root, "X", shape=shape, nnz=nnz, largest_count=largest_count, codec=codec
        )
        self._data = appender(self._group["data"])
        self._indices = appender(self._group["indices"])
        self._lengths: list[IntArray] = []

    def append(self, counts: csr_matrix) -> None:
        """Add rows (b, G): whole numbers, indices sorted, no explicit zeros."""
        self._data.append(counts.data)
        self._indices.append(counts.indices)
        self._lengths.append(np.diff(counts.indptr).astype(np.int64))

    def finish(self, obs: pd.DataFrame) -> None:
        """Write row pointers, ``obs`` (one row for each row appended) and ``var``."""
        assert self._data.length == self._nnz, "there came another number of counts than announced"
        self._data.flush()
        self._indices.flush()
        indptr = np.concatenate([[0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *self._lengths]))])
        assert len(obs) == len(indptr) - 1, "obs and counts have different numbers of cells"
        self._group.attrs["shape"] = [len(obs), len(self._features)]
        indptr_array = ShardAppender(self._group["indptr"])
        indptr_array.append(indptr)
        indptr_array.flush()
        write_frame(self._root, "obs", obs)
        write_frame(self._root, "var", pd.DataFrame(index=pd.Index(self._features, dtype=object)))
        consolidate(self.path)
