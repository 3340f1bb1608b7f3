"""The shuffle on writing: the order that the permutation says, whatever the buckets and slabs."""

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse import csr_matrix

from loaders.preparation import shuffle
from loaders.preparation.shuffle import CellShuffle
from loaders.streaming.permutation import key, permute

N, GENES = 500, 80


@pytest.fixture(scope="module")
def counts() -> csr_matrix:
    random = np.random.default_rng(0)
    dense = random.integers(0, 300, (N, GENES)) * (random.random((N, GENES)) < 0.2)
    dense[:, 0] += 1
    return csr_matrix(dense)


def shuffled(counts: csr_matrix, rows: np.ndarray, folder: Path, *, slab: int, seed: int = 3) -> csr_matrix:
    cells = CellShuffle(folder, n_rows=N, n_features=GENES, nnz=counts.nnz, largest_count=300, seed=seed)
    for part in np.array_split(rows, max(len(rows) // slab, 1)):
        cells.append(part, counts[part])
    return csr_matrix(sparse.vstack(list(cells.shuffled())))


@pytest.mark.parametrize("bucket_bytes", [200, 5_000, 2**30])
@pytest.mark.parametrize("slab", [7, 500])
def test_cells_come_in_the_order_of_the_permutation(
    bucket_bytes: int, slab: int, counts: csr_matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shuffle, "BUCKET_BYTES", bucket_bytes)
    rows = np.delete(np.arange(N), [0, 17, 499])  # three cells are dropped
    made = shuffled(counts, rows, tmp_path / "buckets", slab=slab)
    order = np.argsort(permute(rows, N, key(3, "repack")))
    assert (made != counts[rows[order]]).nnz == 0
    assert made.has_sorted_indices
    assert not (tmp_path / "buckets").exists()


def test_another_seed_is_another_order(counts: csr_matrix, tmp_path: Path) -> None:
    orders = [shuffled(counts, np.arange(N), tmp_path / str(s), slab=50, seed=s) for s in (1, 2)]
    assert (orders[0] != orders[1]).nnz > 0


def test_what_is_held_is_a_bucket(
    counts: csr_matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shuffle, "BUCKET_BYTES", 5_000)
    cells = CellShuffle(tmp_path / "b", n_rows=N, n_features=GENES, nnz=counts.nnz, largest_count=300, seed=0)
    cells.append(np.arange(N), counts)
    sizes = [part.nnz * 3 for part in cells.shuffled()]  # a byte of index, two of count
    assert len(sizes) > 4
    assert max(sizes) < 2 * 5_000
