import numpy as np
import pytest
from scipy.sparse import coo_matrix, csr_matrix, random_array

from loaders.stores.coordinates import narrow_rows


def made(parts, shape, *, dtype=np.float32, **places):  # type: ignore[no-untyped-def]
    given = {
        "first_row": 0,
        "place_of_row": np.arange(shape[0], dtype=np.int32),
        "place_of_column": np.arange(shape[1], dtype=np.int32),
    }
    rows = narrow_rows(parts, **given | places, shape=shape, dtype=dtype)
    return rows and csr_matrix((rows.data, rows.indices.astype(np.int32), rows.ends), shape=shape)


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("is_sorted", [True, False])
def test_coordinates_become_what_scipy_makes_of_them(pieces: int, is_sorted: bool) -> None:
    random = np.random.default_rng(0)
    coo = random_array((50, 30), density=0.2, random_state=random).tocoo()
    order = np.lexsort((coo.col, coo.row)) if is_sorted else random.permutation(coo.nnz)
    columns = [part.astype(np.int64)[order] for part in (coo.row, coo.col)] + [coo.data[order]]
    parts = list(zip(*(np.array_split(column, pieces) for column in columns), strict=True))
    counts = made(parts, (50, 30))
    assert counts.has_canonical_format
    assert counts.dtype == np.float32
    np.testing.assert_array_equal(counts.toarray(), coo.toarray().astype(np.float32))


def test_repeated_coordinates_are_added_up() -> None:
    rows, columns = np.array([1, 0, 1]), np.array([2, 0, 2])
    counts = made([(rows, columns, np.array([1.0, 5.0, 2.0]))], (2, 3))
    expected = coo_matrix(([1.0, 5.0, 2.0], (rows, columns)), shape=(2, 3)).toarray()
    np.testing.assert_array_equal(counts.toarray(), expected)
    assert counts.nnz == 2


@pytest.mark.parametrize(
    ("stored", "largest", "narrow"),
    [
        (np.float32, 255, np.uint8),
        (np.float32, 256, np.uint16),
        (np.uint8, 255, np.uint8),
        (np.int32, 65_536, np.uint32),
        (np.float64, 2**31 - 1, np.uint32),
    ],
)
def test_counts_are_kept_in_the_narrowest_type(stored: type, largest: int, narrow: type) -> None:
    values = np.array([0, 3, largest]).astype(stored)
    counts = made([(np.zeros(3, np.int64), np.arange(3), values)], (1, 3), dtype=stored)
    assert counts.dtype == narrow
    assert counts.toarray().tolist() == [[0, 3, largest]]


@pytest.mark.parametrize("value", [-1, 0.5, np.nan, np.inf, 2.0**31])
def test_what_is_no_count_keeps_its_type(value: float) -> None:
    counts = made([(np.zeros(2, np.int64), np.arange(2), np.array([1.0, value]))], (1, 2), dtype=np.float64)
    assert counts.dtype == np.float64
    np.testing.assert_array_equal(counts.toarray(), [[1.0, value]])


def test_sums_of_repeated_coordinates_may_be_wider() -> None:
    part = (np.zeros(2, np.int64), np.zeros(2, np.int64), np.array([200.0, 200.0]))
    assert made([part], (1, 2)).toarray().tolist() == [[400, 0]]


def test_rows_are_left_out_and_places_moved() -> None:
    part = (np.array([10, 11, 12]), np.array([0, 4, 4]), np.array([7, 8, 9]))
    places = {
        "first_row": 10,
        "place_of_row": np.array([1, -1, 0], dtype=np.int32),
        "place_of_column": np.array([1, -1, -1, -1, 0], dtype=np.int32),
    }
    counts = made([part], (2, 2), **places)
    np.testing.assert_array_equal(counts.toarray(), [[9, 0], [0, 7]])


@pytest.mark.parametrize("column", [1, 5, 10**12])
def test_a_column_without_a_place_is_told(column: int) -> None:
    part = (np.array([0]), np.array([column]), np.array([1]))
    places = np.array([0, -1, 1], dtype=np.int32)
    assert made([part], (1, 2), place_of_column=places) is None


def test_no_coordinates_are_empty_rows() -> None:
    assert made([], (3, 2)).toarray().tolist() == [[0, 0]] * 3
