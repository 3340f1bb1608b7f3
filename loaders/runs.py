"""Runs of elements against the chunks of an array: which part of which run lies in which chunk.

A row of a CSR matrix is a run of neighbouring elements; a chunked array cuts runs where chunks end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfgen_scale.types import IntArray
from loaders.gather import copy_indices, copy_runs


@dataclass(frozen=True)
class Runs:
    """Runs (m,) int64 of elements: where they begin, how long they are, where in the result they go."""

    begins: IntArray
    lengths: IntArray
    targets: IntArray

    @staticmethod
    def of_rows(indptr: IntArray, rows: IntArray) -> "tuple[Runs, IntArray]":
        """The runs of ``rows`` (m,), one behind the other in the result, and its row pointers (m + 1,)."""
        begins = indptr[rows]
        lengths = indptr[rows + 1] - begins
        ends = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(lengths, out=ends[1:])
        return Runs(begins, lengths, ends[:-1]), ends

    def by_chunk(self, chunk: int) -> "Iterator[tuple[int, Runs]]":
        """The runs cut where chunks of ``chunk`` elements end: each chunk with its parts, which count from
        its beginning. Chunks ascend and occur once."""
        first = self.begins // chunk
        # An empty run has no last element, and no part.
        parts = np.where(self.lengths > 0, (self.begins + self.lengths - 1) // chunk - first + 1, 0)
        run = np.repeat(np.arange(len(parts)), parts)
        of_chunk = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(parts) - parts, parts)
        order = np.argsort(of_chunk, kind="stable")
        run, of_chunk = run[order], of_chunk[order]
        begins = np.maximum(self.begins[run], of_chunk * chunk)
        ends = np.minimum(self.begins[run] + self.lengths[run], (of_chunk + 1) * chunk)
        targets = self.targets[run] + begins - self.begins[run]
        cut = Runs(begins - of_chunk * chunk, ends - begins, targets)
        bounds = np.append(np.flatnonzero(np.diff(of_chunk, prepend=-1)), len(of_chunk)).tolist()
        for start, stop in pairwise(bounds):
            yield int(of_chunk[start]), cut._part(slice(start, stop))

    def _part(self, at: slice) -> "Runs":
        return Runs(self.begins[at], self.lengths[at], self.targets[at])

    def copy(self, source: NDArray[Any], out: NDArray[Any], *, limit: int | None, what: str) -> None:
        """Copy the runs of ``source`` (read-only) into ``out``.

        With a ``limit`` the elements are indices: raises ValueError, naming ``what`` they were read from,
        if one is not in [0, limit).
        """
        if limit is None:
            copy_runs(source, self.begins, self.lengths, self.targets, out)
        elif not copy_indices(source, self.begins, self.lengths, self.targets, out, limit):
            raise ValueError(
                f"{what} is corrupt: it has an index that is none of {limit} genes. Write it again from "
                f"where it came from."
            )
