"""Real cells through the whole of `prepare` and the stream, against anndata's own reading."""

import os
from pathlib import Path

import anndata
import numpy as np
import pytest

from loaders.preparation.prepare import prepare
from loaders.streaming.stream import CellStream

DATA = Path(os.environ.get("CFGEN_SCALE_DATA") or "/nonexistent")


@pytest.mark.skipif(
    not (DATA / "pbmc3k_train.h5ad").exists(),
    reason="set CFGEN_SCALE_DATA to the folder with pbmc3k_train.h5ad and pbmc3k_test.h5ad",
)
def test_pbmc3k_given_as_training_and_test_files(tmp_path: Path) -> None:
    train, test = (DATA / f"pbmc3k_{name}.h5ad" for name in ("train", "test"))
    prepared = prepare(
        train, tmp_path / "pbmc3k", test=test, labels=["cell_type"], min_cells_per_gene=0, progress=False
    )
    assert prepared.manifest["cells_by_split"]["test"] == 528
    assert len(prepared.schema.modalities[0].features) == 8573
    assert len(prepared.schema.covariates[0].categories) == 8
    held_out = anndata.read_h5ad(test)
    assert (prepared.to_anndata("test").X != held_out.X).nnz == 0
    assert list(prepared.to_anndata("test").obs["cell_type"]) == list(held_out.obs["cell_type"])
    given = anndata.read_h5ad(train).X
    for batch in CellStream(prepared, batch_cells=256, epochs=1):
        assert (batch.counts[0] != given[batch.rows]).nnz == 0
    np.testing.assert_array_equal(
        prepared.totals(prepared.rows("train"))[:, 0], given[prepared.rows("train")].sum(axis=1).A1
    )
