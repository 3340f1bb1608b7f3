"""The simulated atlas is what loaders are measured on: the same for everyone, and like an atlas."""

import anndata
import numpy as np
import pytest
from scipy.sparse import csr_matrix, vstack

from tests.benchmarks import simulated_atlas
from tests.benchmarks.simulated_atlas import DONORS, GENES, SimulatedAtlas, write_atlas

CELLS = 400


def counts_of(atlas: SimulatedAtlas) -> csr_matrix:
    return vstack([slab.counts for slab in atlas.slabs()], format="csr")


@pytest.fixture(scope="module")
def counts() -> csr_matrix:
    return counts_of(SimulatedAtlas(CELLS))


def test_cells_do_not_depend_on_slabs(counts: csr_matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_atlas, "SLAB_CELLS", 3)
    assert (counts_of(SimulatedAtlas(CELLS)) != counts).nnz == 0
    assert (counts_of(SimulatedAtlas(CELLS, seed=1)) != counts).nnz > 0


def test_counts_are_like_those_of_an_atlas(counts: csr_matrix) -> None:
    assert counts.shape == (CELLS, GENES)
    assert (
        np.diff(counts.indices)[np.diff(np.repeat(np.arange(CELLS), np.diff(counts.indptr))) == 0] > 0
    ).all()
    # Libraries have a log standard deviation of 0.25: the mean of 400 cells is within 4 % (three errors).
    assert counts.nnz / CELLS == pytest.approx(1_000, rel=0.04)
    assert (counts.data == 1).mean() == pytest.approx(0.789, abs=0.01)
    assert counts.data.min() == 1


def test_what_is_written_is_what_was_drawn(counts: csr_matrix, tmp_path) -> None:
    write_atlas(SimulatedAtlas(CELLS), tmp_path / "atlas.zarr")
    atlas = anndata.read_zarr(tmp_path / "atlas.zarr")
    assert (counts != atlas.X).nnz == 0
    donors = atlas.obs["donor"].cat.codes.to_numpy()
    assert list(donors) == list(np.repeat(np.arange(DONORS), CELLS // DONORS))
    assert list(atlas.obs_names) == [str(i) for i in range(CELLS)]
