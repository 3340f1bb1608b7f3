"""The cells of the demo: integer counts recovered from what scanpy brings along."""

import anndata
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from jobs.demo import bundled_pbmc, recover_counts


def log_normalised(counts: csr_matrix) -> csr_matrix:
    """log(1 + 1e4 * count / total), as float32: the way such files were made."""
    totals = counts.sum(1)
    return csr_matrix(np.log1p(counts.toarray() * 1e4 / totals).astype(np.float32))


def test_the_bundled_cells_get_integer_counts(tmp_path):
    path = bundled_pbmc(tmp_path / "demo" / "pbmc.h5ad")
    cells = anndata.read_h5ad(path)
    assert cells.shape == (700, 765)
    assert isinstance(cells.X, csr_matrix)
    assert cells.X.dtype == np.int32
    assert cells.X.data.min() == 1
    assert (cells.X.max(1).toarray() > 1).all()
    assert cells.obs["bulk_labels"].value_counts()["CD14+ Monocyte"] == 129
    assert cells.obs["phase"].value_counts().to_dict() == {"G1": 501, "S": 182, "G2M": 17}
    assert cells.var_names.is_unique
    assert [p.name for p in path.parent.iterdir()] == ["pbmc.h5ad"]


def test_the_file_is_written_once(tmp_path):
    path = bundled_pbmc(tmp_path / "pbmc.h5ad")
    written = path.stat().st_mtime_ns
    assert bundled_pbmc(path).stat().st_mtime_ns == written


def test_counts_are_recovered_from_log_normalised_values():
    dense = np.random.default_rng(0).poisson(0.7, (50, 200)).astype(np.int32)
    dense[:, 0] = 1
    counts = csr_matrix(dense)
    np.testing.assert_array_equal(recover_counts(log_normalised(counts)).toarray(), counts.toarray())


def test_an_empty_cell_stays_empty():
    values = csr_matrix(np.array([[0.0, 0.0], [np.log1p(0.5), np.log1p(1.5)]]))
    np.testing.assert_array_equal(recover_counts(values).toarray(), [[0, 0], [1, 3]])


def test_values_that_are_no_counts_are_refused():
    values = csr_matrix(np.log1p(np.array([[1.0, 2.0, 0.0], [1.0, 0.0, 2.4]])))
    with pytest.raises(ValueError, match=r"row 1, column 2: 2\.400 times the smallest"):
        recover_counts(values)
