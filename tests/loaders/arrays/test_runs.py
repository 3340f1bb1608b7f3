"""Runs of elements against whole arrays: what is copied is what slicing gives."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix, random_array

from loaders.arrays.gather import ascend_in_rows, frozen
from loaders.arrays.runs import Runs
from loaders.preparation.scan import column_lookup, select_columns


def rows_of(lengths: list[int], rows: list[int]) -> tuple[Runs, np.ndarray]:
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Runs.of_rows(indptr, np.array(rows, dtype=np.int64))


@pytest.mark.parametrize("chunk", [1, 3, 7, 10, 1000])
def test_runs_cut_at_chunks_put_the_rows_together_again(chunk: int) -> None:
    lengths = [5, 0, 12, 1, 0, 30, 3]
    source = np.arange(sum(lengths), dtype=np.int32)
    rows = [5, 1, 2, 6, 2, 0, 4]
    runs, ends = rows_of(lengths, rows)
    out = np.full(ends[-1], -1, dtype=np.int64)
    cut = runs.cut(chunk)
    assert cut.chunks.tolist() == sorted(set(cut.chunks.tolist()))
    pieces = [frozen(source[index * chunk : (index + 1) * chunk]) for index in cut.chunks]
    of_run = np.array([len(pieces[i]) for i in cut.of_chunk])
    assert (cut.runs.begins + cut.runs.lengths <= of_run).all()
    cut.copy(pieces, out, limit=None, what=str)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    expected = np.concatenate([source[indptr[r] : indptr[r + 1]] for r in rows])
    np.testing.assert_array_equal(out, expected)


def test_no_rows_are_no_runs() -> None:
    runs, ends = rows_of([4, 4], [])
    assert ends.tolist() == [0]
    cut = runs.cut(3)
    assert len(cut.chunks) == 0
    cut.copy([], np.empty(0, dtype=np.int32), limit=None, what=str)


@pytest.mark.parametrize("rows", [[-1], [0, 2, -3], [7], [0, 1, 2]])
def test_a_row_that_there_is_not_is_refused(rows: list[int]) -> None:
    with pytest.raises(IndexError, match="of 2 are asked for"):
        rows_of([4, 4], rows)


@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_groups_of_chunks_are_the_whole(most: int) -> None:
    lengths = [5, 0, 12, 1, 0, 30, 3]
    source = np.arange(sum(lengths), dtype=np.int32)
    runs, ends = rows_of(lengths, [5, 1, 6, 2, 0, 4])
    whole, grouped = np.empty(ends[-1], dtype=np.int32), np.empty(ends[-1], dtype=np.int32)
    runs.copy(source, whole)
    for cut in runs.cut(4).groups(most):
        assert len(cut.chunks) <= most
        pieces = [source[index * 4 : (index + 1) * 4] for index in cut.chunks]
        cut.copy(pieces, grouped, limit=51, what=str)
    np.testing.assert_array_equal(grouped, whole)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16])
@pytest.mark.parametrize("wrong", [20, 60_000, -1])
def test_an_index_that_is_no_gene_is_refused(dtype: type, wrong: int) -> None:
    indices = np.arange(20).astype(dtype)
    runs, ends = rows_of([8, 12], [1, 0])
    out = np.empty(ends[-1], dtype=np.int32)
    chunks = [frozen(indices[:10]), frozen(indices[10:])]
    runs.cut(10).copy(chunks, out, limit=20, what=lambda chunk: f"chunk {chunk}")
    np.testing.assert_array_equal(out, np.roll(np.arange(20), 12))
    indices[11] = np.array(wrong).astype(dtype)
    with pytest.raises(ValueError, match="chunk 1 is corrupt: it has an index that is none of 20 genes"):
        runs.cut(10).copy(chunks, out, limit=20, what=lambda chunk: f"chunk {chunk}")


def test_rows_that_fall_or_repeat_are_told() -> None:
    indptr = np.array([0, 2, 2, 5])
    assert ascend_in_rows(np.array([4, 9, 0, 3, 7], dtype=np.int32), indptr)
    assert not ascend_in_rows(np.array([4, 4, 0, 3, 7], dtype=np.int32), indptr)
    assert not ascend_in_rows(np.array([4, 9, 0, 3, 2], dtype=np.int32), indptr)


@pytest.mark.parametrize("kept", [[0, 3, 4, 19], list(range(20)), [], [7]])
def test_selected_columns_are_those_of_scipy(kept: list[int]) -> None:
    counts = csr_matrix(random_array((30, 20), density=0.3, rng=0, format="csr"))
    columns = np.array(kept, dtype=np.int64)
    expected = counts.toarray()[:, kept]
    selected = select_columns(counts, column_lookup(columns, 20), len(kept))
    np.testing.assert_array_equal(selected.toarray(), expected)
    assert selected.has_canonical_format
