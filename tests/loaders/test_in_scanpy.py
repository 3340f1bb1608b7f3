"""What users do to an atlas of ours once anndata has read it: each works, and on the right numbers."""

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData

from loaders.preparation.prepare import prepare
from tests.loaders.conftest import make_atlas, write_as
from tests.loaders.generated import cells_of, write_atlas


@pytest.fixture(scope="module", params=["converted", "generated"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    if request.param == "generated":
        return write_atlas(path / "atlas.zarr", [cells_of(n, seed=n) for n in (40, 30)], [0, 1])
    source = write_as(make_atlas(), "h5ad", path)
    return prepare(source, path / "out", labels=["cell_type"], progress=False).path / "cells.zarr"


@pytest.fixture
def atlas(stored: Path) -> AnnData:
    """Read anew for each test: a copy of what was read has had its indices put right by scipy."""
    return anndata.read_zarr(stored)


@pytest.fixture
def counts(stored: Path) -> np.ndarray:
    return anndata.read_zarr(stored).X.toarray().astype(np.int64)


def test_indices_and_row_pointers_are_as_scipy_keeps_them(atlas: AnnData) -> None:
    assert atlas.X.indices.dtype == atlas.X.indptr.dtype == np.int32


@pytest.mark.parametrize("change", ["eliminate_zeros", "sort_indices", "sum_duplicates"])
def test_the_matrix_changes_in_place(change: str, atlas: AnnData, counts: np.ndarray) -> None:
    atlas.X.data[:5] = 0
    counts[tuple(part[:5] for part in counts.nonzero())] = 0
    # scipy remembers that indices are sorted: reversed rows make it do the work
    for begin, end in zip(atlas.X.indptr[:-1], atlas.X.indptr[1:], strict=True):
        atlas.X.indices[begin:end], atlas.X.data[begin:end] = (
            part[begin:end][::-1].copy() for part in (atlas.X.indices, atlas.X.data)
        )
    atlas.X.has_sorted_indices = atlas.X.has_canonical_format = False
    getattr(atlas.X, change)()
    np.testing.assert_array_equal(atlas.X.toarray(), counts)


def test_quality_is_measured(atlas: AnnData, counts: np.ndarray) -> None:
    sc.pp.calculate_qc_metrics(atlas, inplace=True, percent_top=(10,))
    np.testing.assert_array_equal(atlas.obs["total_counts"], counts.sum(axis=1))
    np.testing.assert_array_equal(atlas.var["n_cells_by_counts"], (counts > 0).sum(axis=0))


def test_genes_are_filtered(atlas: AnnData, counts: np.ndarray) -> None:
    least = int(np.median((counts > 0).sum(axis=0)))
    sc.pp.filter_genes(atlas, min_cells=least)
    np.testing.assert_array_equal(atlas.X.toarray(), counts[:, (counts > 0).sum(axis=0) >= least])


def test_counts_are_normalised(atlas: AnnData, counts: np.ndarray) -> None:
    sc.pp.normalize_total(atlas, target_sum=1e4)
    sc.pp.log1p(atlas)
    expected = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(atlas.X.toarray(), expected, rtol=1e-5)


def test_counts_are_downsampled(atlas: AnnData, counts: np.ndarray) -> None:
    sc.pp.downsample_counts(atlas, counts_per_cell=10, random_state=0)
    np.testing.assert_array_equal(atlas.X.sum(axis=1).A1, np.minimum(counts.sum(axis=1), 10))


@pytest.mark.parametrize(
    ("take", "of_counts"),
    [
        (lambda a: a.T, lambda c: c.T),
        (lambda a: a[::-2, 3:9], lambda c: c[::-2, 3:9]),
        (lambda a: a[a.obs_names[[7, 2]], a.var_names[[4, 1]]], lambda c: c[[7, 2]][:, [4, 1]]),
    ],
    ids=["transposed", "sliced", "by name"],
)
def test_parts_are_taken(
    take: Callable[[AnnData], AnnData],
    of_counts: Callable[[np.ndarray], np.ndarray],
    atlas: AnnData,
    counts: np.ndarray,
) -> None:
    part = take(atlas)
    np.testing.assert_array_equal(part.X.toarray(), of_counts(counts))
    part = part.copy()
    part.X.eliminate_zeros()
    np.testing.assert_array_equal(part.X.toarray(), of_counts(counts))


def test_atlases_are_joined_and_written(atlas: AnnData, counts: np.ndarray, tmp_path: Path) -> None:
    joined = anndata.concat([atlas, atlas[:5]], index_unique="-")
    joined.write_h5ad(tmp_path / "joined.h5ad")
    again = anndata.read_h5ad(tmp_path / "joined.h5ad")
    again.X.sort_indices()
    np.testing.assert_array_equal(again.X.toarray(), np.concatenate([counts, counts[:5]]))
    atlas.write_h5ad(tmp_path / "atlas.h5ad")
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "atlas.h5ad").X.toarray(), counts)
