"""Runs of elements against the chunks of an array: which part of which run lies in which chunk.

A row of a CSR matrix is a run of neighbouring elements; a chunked array cuts runs where chunks end.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfgen_scale.types import IntArray
from loaders.arrays.gather import address_of, copy_indices_of_many, copy_runs, copy_runs_of_many, frozen


@dataclass(frozen=True)
class Runs:
    """Runs (m,) int64 of elements: where they begin, how long they are, where in the result they go."""

    begins: IntArray
    lengths: IntArray
    targets: IntArray

    @staticmethod
    def of_rows(indptr: IntArray, rows: IntArray) -> "tuple[Runs, IntArray]":
        """The runs of ``rows`` (m,), one behind the other in the result, and its row pointers (m + 1,).

        Raises IndexError for a row that there is not.
        """
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(indptr) - 1:
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(indptr) - 1} are asked for.")
        begins = indptr[rows]
        lengths = indptr[rows + 1] - begins
        ends = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(lengths, out=ends[1:])
        return Runs(begins, lengths, ends[:-1]), ends

    def copy(self, source: NDArray[Any], out: NDArray[Any]) -> None:
        """Copy the runs of ``source`` into ``out``, cast to its dtype."""
        copy_runs(frozen(source), self.begins, self.lengths, self.targets, out)

    def cut(self, chunk: int) -> "CutRuns":
        """The runs cut where chunks of ``chunk`` elements end."""
        first = self.begins // chunk
        # An empty run has no last element, and no part.
        parts = np.where(self.lengths > 0, (self.begins + self.lengths - 1) // chunk - first + 1, 0)
        run = np.repeat(np.arange(len(parts)), parts)
        chunks_of = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(parts) - parts, parts)
        begins = np.maximum(self.begins[run], chunks_of * chunk)
        ends = np.minimum(self.begins[run] + self.lengths[run], (chunks_of + 1) * chunk)
        targets = self.targets[run] + begins - self.begins[run]
        chunks, of_chunk = np.unique(chunks_of, return_inverse=True)
        return CutRuns(chunks, of_chunk, Runs(begins - chunks_of * chunk, ends - begins, targets))


@dataclass(frozen=True)
class CutRuns:
    """Runs (m,) each of which lies in one chunk: run i in ``chunks[of_chunk[i]]``, from whose beginning it
    counts. Chunks (k,) ascend and occur once."""

    chunks: IntArray
    of_chunk: IntArray
    runs: Runs

    def groups(self, most: int) -> "Iterator[CutRuns]":
        """The same runs in groups that lie in up to ``most`` chunks each."""
        if len(self.chunks) <= most:
            yield self
            return
        order = np.argsort(self.of_chunk, kind="stable")
        sorted_chunks = self.of_chunk[order]
        for begin in range(0, len(self.chunks), most):
            end = min(begin + most, len(self.chunks))
            at = order[slice(*np.searchsorted(sorted_chunks, (begin, end)).tolist())]
            runs = Runs(self.runs.begins[at], self.runs.lengths[at], self.runs.targets[at])
            yield CutRuns(self.chunks[begin:end], self.of_chunk[at] - begin, runs)

    def copy(
        self,
        sources: Sequence[NDArray[Any]],
        out: NDArray[Any],
        *,
        limit: int | None,
        what: Callable[[int], str],
    ) -> None:
        """Copy the runs into ``out``, cast to its dtype; ``sources`` are the chunks (k), of one dtype.

        With a ``limit`` the elements are indices: raises ValueError if one is not in [0, limit), naming
        ``what`` its chunk is called.
        """
        if not sources:
            return
        addresses = np.array([address_of(source) for source in sources], dtype=np.int64)
        like = frozen(sources[0][:0])
        runs = (self.of_chunk, self.runs.begins, self.runs.lengths, self.runs.targets)
        if limit is None:
            copy_runs_of_many(addresses, like, *runs, out)
        elif (wrong := copy_indices_of_many(addresses, like, *runs, out, limit)) >= 0:
            raise ValueError(
                f"{what(int(self.chunks[wrong]))} is corrupt: it has an index that is none of {limit} genes. "
                f"Write it again from where it came from."
            )
