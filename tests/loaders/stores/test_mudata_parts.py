"""MuData and SOMA experiments of several measurements: one source, every modality."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiledbsoma
from anndata import AnnData
from scipy.sparse import csr_matrix

from loaders.preparation.prepare import prepare
from loaders.preparation.prepared import Prepared
from loaders.stores.mudata_parts import modalities_of, split_part
from loaders.stores.opening import open_store
from loaders.streaming.stream import CellStream
from tests.loaders.conftest import make_atlas
from tests.loaders.experiments import add_measurement, write_experiment
from tests.loaders.mudata_files import write_mudata


@pytest.fixture(scope="module")
def parts() -> dict[str, AnnData]:
    """RNA, and peaks of the same cells in another order; labels are with the root."""
    rna, random = make_atlas(200), np.random.default_rng(1)
    peaks = AnnData(X=csr_matrix((random.poisson(0.4, (200, 30)) + np.eye(200, 30)).astype(np.int32)))
    peaks.obs_names, peaks.var_names = rna.obs_names, [f"peak_{i}" for i in range(30)]
    return {"rna": rna, "atac": peaks[random.permutation(200)].copy()}


@pytest.fixture(params=["h5mu", "zarr"])
def mudata(request: pytest.FixtureRequest, parts: dict[str, AnnData], tmp_path: Path) -> Path:
    bare = {name: AnnData(part.X, obs=part.obs[[]], var=part.var) for name, part in parts.items()}
    return write_mudata(bare, tmp_path / f"cells.{request.param}", obs=parts["rna"].obs[::-1])


def as_prepared(source: Path, out: Path, **settings: object) -> Prepared:
    how = {"labels": ["cell_type"], "modalities": {"atac": None}, "min_cells_per_gene": 1, **settings}
    return prepare(source, out, likelihoods={"atac": "bernoulli"}, progress=False, **how)


def require_same_cells(prepared: Prepared, parts: dict[str, AnnData]) -> None:
    names = parts["rna"].obs_names[prepared.source_rows]
    for batch in CellStream(prepared, split="all", batch_cells=32, epochs=1):
        rna, atac = (parts[name][names[batch.rows]].X.toarray() for name in ("rna", "atac"))
        np.testing.assert_array_equal(batch.counts[0].toarray(), rna)
        np.testing.assert_array_equal(batch.counts[1].toarray(), atac > 0)


def test_a_mudata_is_the_source_of_its_modalities(
    mudata: Path, parts: dict[str, AnnData], tmp_path: Path
) -> None:
    assert modalities_of(mudata) == ("rna", "atac")
    prepared = as_prepared(mudata, tmp_path / "out")
    assert [(m.name, m.likelihood) for m in prepared.schema.modalities] == [
        ("rna", "negative_binomial"),
        ("atac", "bernoulli"),
    ]
    require_same_cells(prepared, parts)
    types = parts["rna"].obs["cell_type"].astype(str).to_numpy()[prepared.source_rows]
    categories = np.array([*prepared.schema.covariates[0].categories, ""], dtype=object)
    np.testing.assert_array_equal(categories[prepared.labels(np.arange(200))[:, 0]], types)
    again = Prepared.open(tmp_path / "out")
    assert again.digest == as_prepared(mudata, tmp_path / "out").digest


def test_the_order_of_cells_read_in_place_is_noted(parts: dict[str, AnnData], tmp_path: Path) -> None:
    path = write_mudata(parts, tmp_path / "cells.zarr")
    assert "'atac' lie in another order" in as_prepared(path, tmp_path / "out").summary["notes"]
    repacked = as_prepared(path, tmp_path / "repacked", repack=True)
    assert "another order" not in repacked.summary["notes"]
    assert repacked.digest == Prepared.open(tmp_path / "out").digest


def test_one_modality_of_a_mudata_is_a_store(mudata: Path, parts: dict[str, AnnData]) -> None:
    store = open_store(f"{mudata}/mod/atac")
    assert store.n_cells == 200
    assert store.obs_columns == ("donor", "cell_type")
    expected = parts["rna"].obs.loc[parts["atac"].obs_names, "donor"]
    assert list(store.obs_column("donor")) == list(expected)
    np.testing.assert_array_equal(store.read(np.arange(9)).toarray(), parts["atac"].X[:9].toarray())


def test_its_own_annotations_come_first(parts: dict[str, AnnData], tmp_path: Path) -> None:
    other = pd.DataFrame({"donor": "nobody", "tissue": "lung"}, index=parts["rna"].obs_names[:150])
    store = open_store(f"{write_mudata(parts, tmp_path / 'cells.h5mu', obs=other)}/mod/rna")
    assert set(store.obs_column("donor")) == set(parts["rna"].obs["donor"])
    tissues = store.obs_column("tissue")
    assert (np.asarray(tissues.codes) < 0).sum() == 50, "cells that the root lacks"


def test_what_a_mudata_has_not_is_told(mudata: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no modality 'protein'.*/mod/rna"):
        prepare(mudata, tmp_path / "out", modalities={"protein": None}, progress=False)
    with pytest.raises(ValueError, match="Name one of those it has"):
        open_store(mudata)
    with pytest.raises(ValueError, match=r"has no modality 'peaks'.*/mod/rna, .*/mod/atac"):
        open_store(f"{mudata}/mod/peaks")
    with pytest.raises(ValueError, match=r"neither a MuData nor a SOMA.*--modality protein=SOURCE"):
        prepare(make_atlas(60), tmp_path / "out", modalities={"protein": None}, progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/a/b.h5mu/mod/rna", ("/a/b.h5mu", "rna")),
        ("s3://bucket/b.zarr/mod/atac/", ("s3://bucket/b.zarr", "atac")),
        ("/a/mod/b/c.zarr", None),
        ("/a/b.zarr", None),
    ],
)
def test_paths_of_parts(uri: str, expected: tuple[str, str] | None) -> None:
    assert split_part(uri) == expected


def test_measurements_of_an_experiment_are_modalities(parts: dict[str, AnnData], tmp_path: Path) -> None:
    same_order = {"rna": parts["rna"], "atac": parts["atac"][parts["rna"].obs_names].copy()}
    path = write_experiment(parts["rna"], tmp_path / "soma")
    add_measurement(path, "atac", same_order["atac"])
    prepared = as_prepared(path, tmp_path / "out")
    require_same_cells(prepared, same_order)
    require_same_cells(Prepared.open(tmp_path / "out"), same_order)
    add_measurement(path, "peaks", same_order["atac"])
    named = as_prepared(path, tmp_path / "named", measurement={"rna": "RNA", "atac": "peaks"})
    assert named.digest == prepared.digest
    assert named.manifest["request"]["soma"]["measurement"] == {"rna": "RNA", "atac": "peaks"}
    with tiledbsoma.Experiment.open(str(path)) as experiment:
        assert sorted(experiment.ms) == ["RNA", "atac", "peaks"]


def test_options_are_for_all_modalities_or_for_one(parts: dict[str, AnnData], tmp_path: Path) -> None:
    layered = parts["rna"].copy()
    layered.layers["counts"], layered.X = layered.X, layered.X * 0.5
    how = {"modalities": {"atac": parts["atac"]}, "min_cells_per_gene": 1, "progress": False}
    prepared = prepare(layered, tmp_path / "out", layer={"rna": "counts"}, **how)
    rows = np.arange(9)
    expected = parts["rna"].X[prepared.source_rows[rows]].toarray()
    np.testing.assert_array_equal(prepared.read(rows)[0].toarray(), expected)
    with pytest.raises(ValueError, match=r"layer is given for the modality 'protein'.*Modalities: rna, atac"):
        prepare(layered, tmp_path / "other", layer={"protein": "counts"}, **how)
    with pytest.raises(ValueError, match="likelihood is given for the modality 'peaks'"):
        prepare(layered, tmp_path / "other", likelihoods={"peaks": "poisson"}, **how)
    with pytest.raises(ValueError, match=r"likelihood of 'atac' is one of .* not 'zip'"):
        prepare(layered, tmp_path / "other", likelihoods={"atac": "zip"}, **how)
