"""Atlases of several modalities: rows of all of them are the same cells, wherever the counts are."""

from pathlib import Path

import anndata
import numpy as np
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from loaders.preparation.prepare import prepare
from loaders.preparation.prepared import Prepared
from loaders.streaming.stream import CellStream
from tests.loaders.conftest import make_atlas, write_as


@pytest.fixture(scope="module")
def measured() -> tuple[AnnData, AnnData]:
    """RNA of 600 cells; 9 proteins of these and 50 more, in another order. 2 cells lack RNA, 3 proteins."""
    rna = make_atlas()
    random = np.random.default_rng(5)
    counts = random.poisson(3.0, (650, 9)) + 1
    names = np.append(rna.obs_names, [f"other_{i}" for i in range(50)])
    protein = AnnData(X=csr_matrix(counts.astype(np.int32)))
    protein.obs_names, protein.var_names = names, [f"protein_{i}" for i in range(9)]
    protein = protein[random.permutation(650)].copy()
    for adata, cells in ((rna, ["cell_0_5", "cell_0_77"]), (protein, ["cell_0_5", "cell_0_8", "cell_0_500"])):
        dense = adata.X.toarray()
        dense[adata.obs_names.get_indexer(cells)] = 0
        adata.X = csr_matrix(dense)
    return rna, protein


def both(measured: tuple[AnnData, AnnData], form: str, path: Path, **settings: object) -> Prepared:
    rna, protein = measured
    for name in ("rna", "protein"):
        (path / name).mkdir()
    sources = write_as(rna, form, path / "rna"), write_as(protein, form, path / "protein")
    return prepare(
        sources[0],
        path / "out",
        modalities={"protein": sources[1]},
        labels=["cell_type"],
        min_cells_per_gene=1,
        progress=False,
        **settings,
    )


@pytest.mark.parametrize(
    ("form", "settings"),
    [
        ("memory", {}),
        ("h5ad", {"codec": "zstd"}),
        ("zarr_v3", {}),
        ("zarr_v3", {"repack": True}),
        ("soma", {}),
    ],
)
def test_rows_of_a_batch_are_the_same_cells(
    measured: tuple[AnnData, AnnData], form: str, settings: dict[str, object], tmp_path: Path
) -> None:
    prepared = both(measured, form, tmp_path, **settings)
    assert [m.name for m in prepared.schema.modalities] == ["rna", "protein"]
    assert (prepared.n_cells, prepared.manifest["cells_dropped"]) == (596, 4)
    names = measured[0].obs_names[prepared.source_rows]
    expected = [
        adata[names, list(m.features)].X.toarray()
        for adata, m in zip(measured, prepared.schema.modalities, strict=True)
    ]
    seen = []
    for batch in CellStream(prepared, split="all", batch_cells=64, epochs=1):
        for counts, truth in zip(batch.counts, expected, strict=True):
            np.testing.assert_array_equal(counts.toarray(), truth[batch.rows])
        seen.append(batch.rows)
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(596))
    totals = np.stack([truth.sum(axis=1) for truth in expected], axis=1)
    np.testing.assert_array_equal(prepared.totals(np.arange(596)), totals)


def test_statistics_are_of_each_modality(measured: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    prepared = both(measured, "memory", tmp_path)
    train = prepared.rows("train")
    for m, (library, totals) in enumerate(
        zip(prepared.statistics.libraries, prepared.statistics.feature_totals, strict=True)
    ):
        counts = prepared.read(train)[m]
        np.testing.assert_array_equal(totals, np.asarray(counts.sum(axis=0)).ravel())
        assert library.overall.log_mean == pytest.approx(np.log(counts.sum(axis=1)).mean())


def test_the_digest_is_of_all_counts_whatever_the_format(
    measured: tuple[AnnData, AnnData], tmp_path: Path
) -> None:
    digests = set()
    for form, repack in (("memory", False), ("zarr_v3", True), ("h5ad", False)):
        (path := tmp_path / f"{form}{repack}").mkdir()
        digests.add(both(measured, form, path, repack=repack).digest)
    assert len(digests) == 1
    rna, protein = measured
    other = protein.copy()
    other.X = other.X * 2
    (path := tmp_path / "other").mkdir()
    assert both((rna, other), "memory", path).digest not in digests


def test_copies_open_in_anndata_cell_by_cell(measured: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    prepared = both(measured, "zarr_v3", tmp_path, repack=True)
    rna, protein = (anndata.read_zarr(prepared.path / name) for name in ("cells.zarr", "cells-protein.zarr"))
    assert rna.obs.equals(protein.obs)
    np.testing.assert_array_equal(protein.X.toarray(), measured[1][protein.obs_names].X.toarray())


def test_a_cache_has_a_copy_of_each(measured: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    path = both(measured, "soma", tmp_path).path
    cached, plain = Prepared.open(path, cache=tmp_path / "cache"), Prepared.open(path)
    rows = np.random.default_rng(0).permutation(596)
    for _ in range(2):
        for one, other in zip(cached.read(rows), plain.read(rows), strict=True):
            np.testing.assert_array_equal(one.toarray(), other.toarray())
    assert {p.parent.name for p in (tmp_path / "cache").glob("*/*/cells.zarr")} == {"rna", "protein"}


def test_cells_that_were_not_measured_in_both_are_told(
    measured: tuple[AnnData, AnnData], tmp_path: Path
) -> None:
    rna, protein = measured
    lacking = protein[protein.obs_names != "cell_0_3"]
    with pytest.raises(ValueError, match=r"has not 1 of the 600 cells of memory, first 'cell_0_3'"):
        both((rna, lacking), "memory", tmp_path)
    assert not (tmp_path / "out").exists()
    with pytest.warns(UserWarning, match="names are not unique"):
        twice = anndata.concat([protein, protein[:1]])
    with pytest.raises(ValueError, match=r"has 1 names of cells more than once.*found by their names"):
        prepare(rna, tmp_path / "out", modalities={"protein": twice}, progress=False)


@pytest.mark.parametrize("name", ["rna", "two words", ""])
def test_names_of_modalities_are_words_of_their_own(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a further modality"):
        prepare(make_atlas(60), tmp_path / "out", modalities={name: make_atlas(60)}, progress=False)


def test_the_same_request_returns_what_is_there_and_another_is_refused(
    measured: tuple[AnnData, AnnData], tmp_path: Path
) -> None:
    made = both(measured, "h5ad", tmp_path)
    sources = [tmp_path / name / "atlas.h5ad" for name in ("rna", "protein")]
    how = {"labels": ["cell_type"], "min_cells_per_gene": 1, "progress": False}
    again = prepare(sources[0], tmp_path / "out", modalities={"protein": sources[1]}, **how)
    assert again.digest == made.digest
    with pytest.raises(FileExistsError, match="was prepared with sources"):
        prepare(sources[0], tmp_path / "out", **how)


@pytest.mark.parametrize(
    ("form", "settings"), [("h5ad", {}), ("zarr_v3", {}), ("zarr_v3", {"repack": True}), ("soma", {})]
)
def test_a_bernoulli_modality_is_binarised_wherever_it_is(
    measured: tuple[AnnData, AnnData], form: str, settings: dict[str, object], tmp_path: Path
) -> None:
    prepared = both(measured, form, tmp_path, likelihoods={"protein": "bernoulli"}, **settings)
    assert [m.counted for m in prepared.schema.modalities] == [True, False]
    names = measured[0].obs_names[prepared.source_rows]
    rna, protein = (adata[names].X.toarray() for adata in measured)
    rows = np.random.default_rng(0).permutation(596)
    counts = prepared.read(rows)
    np.testing.assert_array_equal(counts[0].toarray(), rna[rows])
    np.testing.assert_array_equal(counts[1].toarray(), protein[rows] > 0)
    np.testing.assert_array_equal(prepared.totals(rows), rna[rows].sum(axis=1, keepdims=True))
    train = prepared.rows("train")
    np.testing.assert_array_equal(prepared.statistics.feature_totals[1], (protein[train] > 0).sum(axis=0))
    assert len(prepared.statistics.libraries) == 1
    assert "counts of 'protein' are binarised" in prepared.summary["notes"]
    assert prepared.to_anndata("test", "protein").X.max() == 1


def test_counts_that_are_the_same_when_binarised_are_the_same_atlas(
    measured: tuple[AnnData, AnnData], tmp_path: Path
) -> None:
    rna, protein = measured
    twice = protein.copy()
    twice.X = twice.X * 2
    digests = set()
    for name, cells, kind in (
        ("a", protein, "bernoulli"),
        ("b", twice, "bernoulli"),
        ("c", protein, "poisson"),
    ):
        (path := tmp_path / name).mkdir()
        digests.add(both((rna, cells), "memory", path, likelihoods={"protein": kind}).digest)
    assert len(digests) == 2
    with pytest.raises(FileExistsError, match=r"was prepared with likelihoods = \{'protein': 'poisson'\}"):
        prepare(
            rna,
            tmp_path / "c" / "out",
            modalities={"protein": protein},
            labels=["cell_type"],
            min_cells_per_gene=1,
            progress=False,
        )


def test_an_atlas_of_a_binarised_modality_alone_has_no_size_factors(tmp_path: Path) -> None:
    prepared = prepare(make_atlas(120), tmp_path / "out", likelihoods={"rna": "bernoulli"}, progress=False)
    assert prepared.totals(np.arange(5)).shape == (5, 0)
    assert prepared.statistics.libraries == ()


def test_library_sizes_are_kept_for_joint_labels(tmp_path: Path) -> None:
    labels = ["cell_type", "donor"]
    prepared = prepare(make_atlas(), tmp_path / "out", labels=labels, min_cells_per_gene=0, progress=False)
    train, statistics = prepared.rows("train"), prepared.statistics
    log_l = np.log(prepared.totals(train)[:, 0])
    tables = statistics.libraries[0].by_joint
    for (codes, n), table in zip(statistics.joint_labels, tables, strict=True):
        of_cells = log_l[(prepared.labels(train) == codes).all(axis=1)]
        assert n == table.n == len(of_cells)
        np.testing.assert_allclose(
            (table.log_mean, table.log_sd), (of_cells.mean(), of_cells.std()), atol=1e-12
        )
