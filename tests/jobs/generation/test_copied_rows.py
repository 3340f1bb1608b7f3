"""New cells like the rows of a table: what is copied, what is drawn, what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from cfgen_scale.model import CFGen
from cfgen_scale.types import SchemaError
from jobs.generation.copied_rows import LikeObs, copied_rows, read_rows
from jobs.generation.generate import generate_atlas
from jobs.generation.request import RequestError
from jobs.generation.request_sources import like_obs_from_options
from loaders.atlases.assembly import read_provenance
from loaders.atlases.writer import PartialAtlas
from tests.tiny_model import JOINT_LABELS, SCHEMA
from tests.tree_bytes import tree_bytes

TYPES = ["B", "NK", "", "T", "T", "B", "NK"]
DONORS = ["d1", "d2", "d1", "", "d2", "d1", ""]
COUNTS = [100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0]


def table(**columns: Any) -> pd.DataFrame:
    frame = pd.DataFrame(columns)
    frame.index = pd.Index([f"cell{i}" for i in range(len(frame))], name="cell")
    return frame


def written(frame: pd.DataFrame, path: Path) -> Path:
    """The table in the form that the name of the file says."""
    match path.suffix:
        case ".csv" | ".gz":
            frame.to_csv(path)
        case ".tsv":
            frame.to_csv(path, sep="\t")
        case ".parquet":
            frame.replace("", None).to_parquet(path)
        case ".h5ad" | ".zarr":
            text = frame.select_dtypes(exclude="number").columns
            known = frame.replace("", np.nan).astype(dict.fromkeys(text, "category"))
            cells = anndata.AnnData(np.zeros((len(frame), 1), dtype=np.float32), obs=known)
            (cells.write_h5ad if path.suffix == ".h5ad" else cells.write_zarr)(path)
    return path


def generate(model_path: Path, out: Path, like: LikeObs, **options: Any) -> Path:
    return generate_atlas(model_path, out, like, **{"chunk_cells": 3, "progress": False, **options})


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return written(table(cell_type=TYPES, donor=DONORS, n_counts=COUNTS), tmp_path / "obs.csv")


@pytest.mark.parametrize("name", ["obs.csv.gz", "obs.tsv", "obs.parquet", "obs.h5ad", "obs.zarr"])
def test_every_kind_of_table_says_the_same(whole: Path, tmp_path: Path, name: str) -> None:
    other = written(pd.read_csv(whole, index_col=0, keep_default_na=False), tmp_path / name)
    digests = []
    for path in (whole, other):
        with copied_rows(LikeObs(path, size_factor_columns={"": "n_counts"}), SCHEMA, near=tmp_path) as rows:
            digests.append(rows.request.groups[0].copied)
    assert digests[0] == digests[1]


def test_cells_are_like_the_rows(model_path: Path, whole: Path, tmp_path: Path) -> None:
    like = LikeObs(whole, size_factor_columns={"": "n_counts"})
    obs = anndata.read_zarr(generate(model_path, tmp_path / "atlas.zarr", like)).obs
    assert obs["cell_type"].astype(object).fillna("").tolist() == TYPES
    assert obs["donor"].astype(object).fillna("").tolist() == DONORS
    np.testing.assert_allclose(obs["size_factor"], COUNTS, rtol=1e-5)


def test_what_is_said_of_all_cells_holds_instead_of_a_column(
    model_path: Path, whole: Path, tmp_path: Path
) -> None:
    like = like_obs_from_options(whole, told=["donor=d2"], guidance=["donor=2"], size_factor=["50"])
    out = generate(model_path, tmp_path / "atlas.zarr", like)
    obs = anndata.read_zarr(out).obs
    assert (obs["donor"] == "d2").all()
    np.testing.assert_allclose(obs["size_factor"], 50, rtol=1e-5)
    group = read_provenance(out)["plan"]["request"][0]
    assert (group["copied"]["attributes"], group["guidance"]) == (["cell_type"], {"donor": 2.0})


def test_attributes_without_a_column_are_drawn_given_those_copied(model_path: Path, tmp_path: Path) -> None:
    """Chi-square of the donors of each type; 1 degree of freedom each for B and T, 0.1 % level."""
    types = np.repeat(["B", "NK", "T"], 1000)
    path = written(table(cell_type=np.random.default_rng(0).permutation(types)), tmp_path / "obs.csv")
    obs = anndata.read_zarr(generate(model_path, tmp_path / "atlas.zarr", LikeObs(path), chunk_cells=100)).obs
    assert (obs.loc[obs["cell_type"] == "NK", "donor"] == "d2").all()
    cells = dict(JOINT_LABELS)
    for code, name in ((0, "B"), (2, "T")):
        share = cells[code, 0] / (cells[code, 0] + cells[code, 1])
        first = int((obs.loc[obs["cell_type"] == name, "donor"] == "d1").sum())
        assert (first - 1000 * share) ** 2 / (1000 * share * (1 - share)) < 10.83


def test_the_table_is_not_in_the_plan_and_chunks_take_slices_of_it(
    model_path: Path, whole: Path, tmp_path: Path
) -> None:
    with copied_rows(LikeObs(whole, size_factor_columns={"": "n_counts"}), SCHEMA, near=tmp_path) as rows:
        rows.save(tmp_path)
        group = rows.request.groups[0]
        assert len(str(rows.request.to_json())) < 400
        assert {tuple(row) for row in rows.combinations} == {
            (0, 0), (1, 1), (-1, 0), (2, -1), (2, 1), (1, -1),
        }  # fmt: skip
        assert sorted(path.name for path in tmp_path.iterdir()) == ["copied_rows.bin", "obs.csv"]
    labels, log_sizes = read_rows(tmp_path, group, slice(2, 4))
    assert labels.tolist() == [[-1, 0], [2, -1]]
    np.testing.assert_allclose(np.exp(log_sizes), [[300], [400]], rtol=1e-5)


def test_same_bytes_whatever_the_table_is_called_and_other_tables_are_refused(
    model_path: Path, whole: Path, tmp_path: Path
) -> None:
    one = generate(model_path, tmp_path / "one.zarr", LikeObs(whole))
    moved = whole.rename(tmp_path / "moved.csv")
    other = generate(model_path, tmp_path / "other.zarr", LikeObs(moved))
    assert tree_bytes(one) == tree_bytes(other)
    assert not PartialAtlas.beside(one).path.exists()
    moved.write_text(moved.read_text().replace("cell1,NK", "cell1,B"))
    with pytest.raises(FileExistsError, match="another request"):
        generate(model_path, one, LikeObs(moved))


@pytest.mark.parametrize(
    ("columns", "like", "error", "says"),
    [
        (
            {"cell_type": ["B", "mast", "mast", "nk"]},
            {},
            RequestError,
            r"'cell_type' has categories.*'mast' \(2 rows\), 'nk' \(1 rows\).*Known: 'B', 'NK', 'T'",
        ),
        ({"kind": ["B"]}, {}, RequestError, "no column to copy. Its columns: cell, kind.*cell_type, donor"),
        ({"cell_type": []}, {}, RequestError, "has no rows"),
        (
            {"cell_type": ["B"], "n": [0]},
            {"size_factor_columns": {"": "n"}},
            RequestError,
            "1 of 1 rows have no number above 0 and up to 2.30 in column 'n'",
        ),
        (
            {"cell_type": ["B", "B"], "n": [2**30, 2**30 + 1]},
            {"size_factor_columns": {"": "n"}},
            RequestError,
            "1 of 2 rows have no number above 0 and up to 2.30 in column 'n'",
        ),
        (
            {"cell_type": ["B"]},
            {"size_factor_columns": {"": "n_counts"}},
            RequestError,
            "no column 'n_counts' to copy size factors from",
        ),
        ({"cell_type": ["B"]}, {"told": {"donor": "d9"}}, SchemaError, "no category 'd9'"),
    ],
)
def test_tables_that_do_not_fit_are_refused_before_anything_is_written(
    model_path: Path,
    tmp_path: Path,
    columns: dict[str, Any],
    like: dict[str, Any],
    error: type[Exception],
    says: str,
) -> None:
    path = written(table(**columns), tmp_path / "obs.csv")
    with pytest.raises(error, match=says):
        generate(model_path, tmp_path / "atlas.zarr", LikeObs(path, **like))
    assert [path.name for path in tmp_path.iterdir()] == ["obs.csv"]


def test_a_row_that_no_training_cell_goes_with_is_refused(tmp_path: Path, model_path: Path) -> None:
    model = CFGen.load(model_path)
    kept = model.frequencies.codes[:, 0] != 1
    model.frequencies = type(model.frequencies)(model.frequencies.codes[kept], model.frequencies.cells[kept])
    path = written(table(cell_type=["B", "NK"]), tmp_path / "obs.csv")
    with pytest.raises(RequestError, match=r"a row of the table: no training cell has 'cell_type' 'NK'"):
        generate(model.save(tmp_path / "model"), tmp_path / "atlas.zarr", LikeObs(path))


def test_a_model_told_all_attributes_or_none_is_not_told_some_of_a_row(
    tmp_path: Path, model_path: Path
) -> None:
    model = CFGen.load(model_path)
    model.config = replace(model.config, velocity=replace(model.config.velocity, attributes_told="all"))
    model.save(tmp_path / "model")
    some = written(table(cell_type=["B", "T"], donor=["d1", ""]), tmp_path / "some.csv")
    with pytest.raises(RequestError, match=r"a row of the table: this model was told all attributes"):
        generate(tmp_path / "model", tmp_path / "atlas.zarr", LikeObs(some))
    all_or_none = written(table(cell_type=["B", ""], donor=["d1", ""]), tmp_path / "all_or_none.csv")
    obs = anndata.read_zarr(generate(tmp_path / "model", tmp_path / "atlas.zarr", LikeObs(all_or_none))).obs
    assert obs["donor"].isna().tolist() == [False, True]


def test_what_is_no_table_is_refused(model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no table of cells at"):
        generate(model_path, tmp_path / "atlas.zarr", LikeObs(tmp_path / "obs.csv"))
    (tmp_path / "obs.xlsx").write_text("")
    with pytest.raises(ValueError, match=r"is no table of cells: give a \.csv"):
        generate(model_path, tmp_path / "atlas.zarr", LikeObs(tmp_path / "obs.xlsx"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="is no AnnData-Zarr"):
        generate(model_path, tmp_path / "atlas.zarr", LikeObs(tmp_path / "folder"))
