import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from scipy.sparse import csr_matrix

from cfgen_scale.types import SchemaError
from loaders.preparation.prepare import prepare
from loaders.preparation.prepared import Prepared
from tests.loaders.conftest import (
    FORMATS,
    PARTS,
    READ_IN_PLACE,
    WITHOUT_OBS,
    make_atlas,
    write_as,
    write_obs_table,
)

Write = Callable[..., Path]


def prepared_from(source: Any, out: Path, **settings: Any) -> Prepared:
    return prepare(source, out, **{"labels": ["cell_type"], "progress": False, **settings})


def spoilt(value: float, *, row: int = 3, column: int = 5) -> AnnData:
    atlas = make_atlas(n_cells=60)
    counts = atlas.X.toarray()
    counts[row, column] = value
    atlas.X = csr_matrix(counts)
    return atlas


def test_what_is_prepared_is_what_was_given(prepared: Prepared, atlas: AnnData) -> None:
    rows = prepared.rows("all")
    assert len(rows) == prepared.n_cells == atlas.n_obs
    np.testing.assert_array_equal(prepared.read(rows[::-1])[0].toarray(), atlas.X.toarray()[::-1])
    np.testing.assert_array_equal(prepared.totals(rows)[:, 0], atlas.X.toarray().sum(axis=1))
    splits = [prepared.rows(name) for name in ("train", "validation", "test")]
    np.testing.assert_array_equal(np.sort(np.concatenate(splits)), rows)
    assert all(len(split) for split in splits)
    names = [c.name for c in prepared.schema.covariates]
    assert names == ["cell_type", "donor"]
    types = prepared.schema.covariate("cell_type").codes([v or None for v in atlas.obs["cell_type"]])
    np.testing.assert_array_equal(prepared.labels(rows)[:, 0], types)
    assert (types == -1).any()


def test_statistics_are_those_of_the_training_cells(prepared: Prepared, atlas: AnnData) -> None:
    rows = prepared.rows("train")
    counts, labels = atlas.X.toarray()[rows], prepared.labels(rows)
    log_totals = np.log(counts.sum(axis=1))
    library = prepared.statistics.libraries[0]
    table = library.overall
    assert (table.n, table.log_mean) == (len(rows), pytest.approx(log_totals.mean()))
    assert table.log_sd == pytest.approx(log_totals.std(ddof=0))
    assert (library.log_min, library.log_max) == (log_totals.min(), log_totals.max())
    of_b = log_totals[labels[:, 0] == prepared.schema.covariate("cell_type").code("B cells")]
    assert library.by_label["cell_type"]["B cells"].log_mean == pytest.approx(of_b.mean())
    np.testing.assert_allclose(prepared.statistics.feature_totals[0], counts.sum(axis=0))
    joint = dict(prepared.statistics.joint_labels)
    assert sum(joint.values()) == len(rows)
    assert joint[tuple(labels[0])] == (labels == labels[0]).all(axis=1).sum()


@pytest.mark.parametrize("form", FORMATS + PARTS)
@pytest.mark.parametrize("repack", [False, True])
def test_digest_and_cells_do_not_depend_on_the_file_format(
    form: str, repack: bool, prepared: Prepared, atlas: AnnData, tmp_path: Path
) -> None:
    source = write_as(atlas, form, tmp_path)
    obs = write_obs_table(atlas, tmp_path / "obs.csv") if form in WITHOUT_OBS else None
    again = prepared_from(source, tmp_path / "out", labels=["cell_type", "donor"], repack=repack, obs=obs)
    assert again.digest == prepared.digest
    assert again.schema == prepared.schema
    rows = np.array([5, 1, 400])
    sources = again.source_rows[rows]
    np.testing.assert_array_equal(again.read(rows)[0].toarray(), prepared.read(sources)[0].toarray())
    np.testing.assert_array_equal(again.labels(rows), prepared.labels(sources))
    assert (again.arrangement == again.digest) is not repack
    in_place = form in (*READ_IN_PLACE, "mudata_zarr") and not repack
    assert (tmp_path / "out" / "cells.zarr").exists() is not in_place


def test_digest_changes_with_a_count_a_label_and_the_split(tmp_path: Path) -> None:
    relabelled = make_atlas(n_cells=60)
    relabelled.obs["cell_type"] = relabelled.obs["cell_type"].cat.rename_categories({"B cells": "b"})
    digests = [
        prepared_from(make_atlas(n_cells=60), tmp_path / "a").digest,
        prepared_from(spoilt(17), tmp_path / "b").digest,
        prepared_from(relabelled, tmp_path / "c").digest,
        prepared_from(make_atlas(n_cells=60), tmp_path / "d", seed=1).digest,
    ]
    assert len(set(digests)) == 4


def test_the_cells_kept_open_in_anndata(tmp_path: Path, write: Write) -> None:
    atlas = make_atlas(n_cells=60)
    out = prepared_from(write(atlas), tmp_path / "out", min_cells_per_gene=0).path
    cells = anndata.read_zarr(out / "cells.zarr")
    np.testing.assert_array_equal(cells.X.toarray(), atlas.X.toarray())
    assert cells.X.dtype == np.uint8
    assert list(cells.obs_names) == list(atlas.obs_names)
    assert cells.obs["cell_type"].isna().sum() == (atlas.obs["cell_type"] == "").sum()
    root = zarr.open_group(out / "cells.zarr")
    assert root.metadata.zarr_format == 3
    assert root.metadata.consolidated_metadata is not None
    assert root["X/indices"].dtype == root["X/indptr"].dtype == np.int32


def test_to_anndata_gives_one_split(prepared: Prepared, atlas: AnnData) -> None:
    test = prepared.to_anndata("test")
    rows = prepared.rows("test")
    assert list(test.obs_names) == list(atlas.obs_names[rows])
    assert test.X.dtype == np.int32
    np.testing.assert_array_equal(test.X.toarray(), atlas.X.toarray()[rows])
    assert list(test.obs["donor"]) == list(atlas.obs["donor"].iloc[rows])
    assert tuple(test.var_names) == prepared.schema.modalities[0].features


@pytest.mark.parametrize("form", ["h5ad", "zarr_v3", "soma"])
def test_genes_in_few_training_cells_are_removed_and_cells_left_without_counts_dropped(
    form: str, tmp_path: Path, write: Write
) -> None:
    atlas = make_atlas(n_cells=200, n_genes=12)
    counts = atlas.X.toarray()
    counts[:, 3] = 0
    counts[:5, 3] = 2  # a gene of five cells
    counts[0] = 0
    counts[0, 3] = 9  # a cell of that gene alone
    counts[1] = 0  # a cell of nothing
    atlas.X = csr_matrix(counts)
    made = prepared_from(write(atlas, form), tmp_path / "out", min_cells_per_gene=10)
    assert made.manifest["cells_dropped"] == 2
    assert made.manifest["modalities"][0]["features_removed"] == 1
    assert made.summary["cells dropped (no counts)"] == 2
    assert "gene_3" not in made.schema.modalities[0].features
    expected = np.delete(counts[2:], 3, axis=1)
    np.testing.assert_array_equal(made.read(made.rows("all"))[0].toarray(), expected)
    np.testing.assert_array_equal(made.totals(made.rows("all"))[:, 0], expected.sum(axis=1))
    np.testing.assert_array_equal(made.source_rows, np.arange(2, 200))
    assert list(made.to_anndata("test").obs_names) == list(atlas.obs_names[made.rows("test") + 2])


def test_the_gene_filter_counts_training_cells_alone(tmp_path: Path) -> None:
    atlas = make_atlas(n_cells=100)
    folds = np.array(["train"] * 50 + ["test"] * 50, dtype=object)
    counts = atlas.X.toarray()
    counts[:, 7] = folds == "test"
    atlas.X, atlas.obs["fold"] = csr_matrix(counts), folds
    made = prepared_from(atlas, tmp_path / "out", split_column="fold", min_cells_per_gene=1)
    assert "gene_7" not in made.schema.modalities[0].features


def test_the_gene_filter_can_be_off_but_not_leave_nothing(tmp_path: Path) -> None:
    atlas = make_atlas(n_cells=60)
    atlas.X = csr_matrix(np.where(np.arange(50) == 4, 0, atlas.X.toarray()))
    made = prepared_from(atlas, tmp_path / "all", min_cells_per_gene=0)
    assert len(made.schema.modalities[0].features) == 50
    with pytest.raises(ValueError, match=r"no gene \(rna\) occurs in 61 training cells or more"):
        prepared_from(atlas, tmp_path / "none", min_cells_per_gene=61)


def test_split_by_donor_keeps_donors_whole(tmp_path: Path, atlas: AnnData) -> None:
    made = prepared_from(atlas, tmp_path / "out", split_by="donor", test_fraction=0.2)
    donors = {name: set(atlas.obs["donor"].iloc[made.rows(name)]) for name in ("train", "validation", "test")}
    assert [len(d) for d in donors.values()] == [28, 4, 8]
    assert len(set.union(*donors.values())) == 40


def test_a_test_source_gives_all_test_cells(tmp_path: Path, write: Write) -> None:
    train, test = make_atlas(n_cells=100), make_atlas(n_cells=40, seed=1)
    made = prepared_from(write(train), tmp_path / "out", test=write(test, "zarr_v3", "test"))
    assert made.rows("test").tolist() == list(range(100, 140))
    assert len(made.rows("train")) + len(made.rows("validation")) == 100
    assert len(made.rows("validation")) > 0
    np.testing.assert_array_equal(made.to_anndata("test").X.toarray(), test.X.toarray())


def test_a_split_column_is_followed(tmp_path: Path) -> None:
    atlas = make_atlas(n_cells=60)
    atlas.obs["fold"] = ["train"] * 30 + ["validation"] * 10 + ["test"] * 20
    made = prepared_from(atlas, tmp_path / "out", split_column="fold")
    assert made.manifest["cells_by_split"] == {"train": 30, "validation": 10, "test": 20}
    with pytest.raises(ValueError, match="named twice"):
        prepared_from(atlas, tmp_path / "other", split_column="fold", test=atlas)


@pytest.mark.parametrize("form", ["h5ad", "zarr_v3", "soma", "memory"])
@pytest.mark.parametrize("value", [1.5, -1.0, np.nan, np.inf, 2.0**40])
def test_what_is_no_count_is_refused_naming_cell_and_gene(form: str, value: float, tmp_path: Path) -> None:
    source = write_as(spoilt(value), form, tmp_path)
    with pytest.raises(ValueError, match=r"cell 'cell_0_3' \(row 3\), gene 'gene_5' has .* not a count"):
        prepared_from(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_the_source_of_a_wrong_entry_is_named(tmp_path: Path, write: Write) -> None:
    good, bad = write(make_atlas(n_cells=60)), write(spoilt(0.5, row=7), name="bad")
    with pytest.raises(ValueError, match=r"bad/atlas\.h5ad: cell 'cell_0_7' \(row 7\)"):
        prepared_from([good, bad], tmp_path / "out")


def test_bad_requests_are_refused_before_any_work(tmp_path: Path, write: Write) -> None:
    source, out = write(make_atlas(n_cells=60)), tmp_path / "out"
    with pytest.raises(FileNotFoundError, match=r"there is nothing at .*nowhere"):
        prepared_from(tmp_path / "nowhere.h5ad", out)
    with pytest.raises(ValueError, match=r"no obs column 'celltype'. Its columns: donor, cell_type"):
        prepared_from(source, out, labels=["celltype"])
    with pytest.raises(ValueError, match="no obs column 'tissue'"):
        prepared_from(source, out, split_by="tissue")
    with pytest.raises(ValueError, match="no layer 'counts'"):
        prepared_from(source, out, layer="counts")
    with pytest.raises(ValueError, match="a label is named twice"):
        prepared_from(source, out, labels=["donor", "donor"])
    with pytest.raises(ValueError, match="test_fraction must be at least 0"):
        prepared_from(source, out, test_fraction=1.5)
    with pytest.raises(ValueError, match="min_cells_per_gene is 0"):
        prepared_from(source, out, min_cells_per_gene=-1)
    with pytest.raises(ValueError, match="at least one source"):
        prepared_from([], out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_duplicate_gene_names_are_refused(tmp_path: Path, write: Write) -> None:
    atlas = make_atlas(n_cells=60)
    atlas.var.index = pd.Index(["CD3D" if g in (4, 9) else f"g{g}" for g in range(50)], dtype=object)
    with pytest.warns(UserWarning, match="Variable names are not unique"):
        source = write(atlas)
    with pytest.raises(ValueError, match=r"more than once, first 'CD3D' at columns 4 and 9"):
        prepared_from(source, tmp_path / "out")


def test_sources_with_other_genes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="has gene 'gene_50'"):
        prepared_from(make_atlas(n_cells=60), tmp_path / "out", test=make_atlas(n_cells=60, n_genes=51))


def test_the_same_request_returns_what_is_there(
    tmp_path: Path, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write(make_atlas(n_cells=60)), tmp_path / "out"
    first = prepared_from(source, out)
    written = (out / "prepared.json").stat().st_mtime_ns
    assert prepared_from(source, out, progress=True).digest == first.digest
    assert (out / "prepared.json").stat().st_mtime_ns == written
    assert "already prepared" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"seed": 1}, "seed = 0, and now seed = 1"),
        ({"labels": ["donor"]}, "labels"),
        ({"repack": True}, "repack"),
    ],
)
def test_another_request_for_the_same_place_is_refused(
    settings: dict[str, Any], named: str, tmp_path: Path, write: Write
) -> None:
    source, out = write(make_atlas(n_cells=60)), tmp_path / "out"
    prepared_from(source, out)
    with pytest.raises(FileExistsError, match=f"was prepared with {named}"):
        prepared_from(source, out, **settings)


def test_another_source_or_something_else_at_that_place_is_refused(tmp_path: Path, write: Write) -> None:
    out = tmp_path / "out"
    prepared_from(write(make_atlas(n_cells=60)), out)
    with pytest.raises(FileExistsError, match="was prepared with sources"):
        prepared_from(write(make_atlas(n_cells=60), name="other"), out)
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(FileExistsError, match="is not a prepared atlas"):
        prepared_from(make_atlas(n_cells=60), tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "mine"
    with pytest.raises(FileExistsError, match="is not a prepared atlas"):
        prepared_from(make_atlas(n_cells=60), tmp_path)


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "index.zarr").write_text("half")
    (tmp_path / "out").mkdir()
    prepared_from(make_atlas(n_cells=60), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_no_labels_no_held_out_cells(tmp_path: Path) -> None:
    made = prepared_from(
        make_atlas(n_cells=60), tmp_path / "out", labels=[], validation_fraction=0, test_fraction=0
    )
    assert made.manifest["cells_by_split"] == {"train": 60, "validation": 0, "test": 0}
    assert made.labels(made.rows("train")).shape == (60, 0)
    assert made.statistics.joint_labels == (((), 60),)


def test_a_split_that_comes_out_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of 3 cells with counts is a (validation|test) cell"):
        prepared_from(make_atlas(n_cells=3), tmp_path / "out", min_cells_per_gene=0)


def test_an_in_place_source_that_vanished_or_changed_is_told(tmp_path: Path, write: Write) -> None:
    source = write(make_atlas(n_cells=60), "zarr_v3")
    prepared_from(source, tmp_path / "out")
    source.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError, match=r"has vanished.*put it back, or prepare again"):
        Prepared.open(tmp_path / "out")
    write_as(make_atlas(n_cells=61), "zarr_v3", source.parent)
    with pytest.raises(ValueError, match=r"has changed: it was .*'cells': 60.* and is .*'cells': 61"):
        Prepared.open(tmp_path / "out")


def test_a_packed_atlas_can_be_moved(tmp_path: Path, write: Write) -> None:
    source = write(make_atlas(n_cells=60))
    made = prepared_from(source, tmp_path / "out")
    made.path.rename(tmp_path / "moved")
    source.unlink()
    again = Prepared.open(tmp_path / "moved")
    assert again.read(again.rows("all"))[0].nnz > 0


def test_what_is_not_a_prepared_atlas_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no prepared atlas at"):
        Prepared.open(tmp_path / "absent")
    with pytest.raises(ValueError, match="is not a prepared atlas"):
        Prepared.open(tmp_path)
    made = prepared_from(make_atlas(n_cells=60), tmp_path / "out")
    with pytest.raises(ValueError, match="there is no split 'held out'"):
        made.rows("held out")
    manifest = json.loads((made.path / "prepared.json").read_text())
    (made.path / "prepared.json").write_text(json.dumps({**manifest, "version": 99}))
    with pytest.raises(ValueError, match="is of version 99"):
        Prepared.open(made.path)


def test_names_that_occur_twice_are_made_unique(tmp_path: Path) -> None:
    twice = [make_atlas(n_cells=60), make_atlas(n_cells=60)]
    made = prepared_from(twice, tmp_path / "out")
    names = anndata.read_zarr(made.path / "cells.zarr").obs_names
    assert names.is_unique
    assert list(names[:60]) == list(twice[0].obs_names)
    assert list(names[60:]) == [f"{name}_1" for name in twice[0].obs_names]
