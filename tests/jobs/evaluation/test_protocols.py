"""Protocols on a model of seconds: what is written, what is refused before work starts."""

import csv
import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cfgen_scale.evaluation import EvaluationSettings, IntersectionSettings
from cfgen_scale.model import CFGen
from cfgen_scale.types import SchemaError
from jobs.cli import main
from jobs.evaluation.guidance_protocols import guidance_files, intersection_files
from jobs.evaluation.model_draws import ModelDraws
from jobs.evaluation.protocol_tables import guidance_table, intersection_table
from loaders.preparation.prepare import prepare
from tests.small_atlas import small_atlas

# so few cells stop a classifier early or at its most epochs, whichever is first
pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")


def written(folder: Path, name: str) -> tuple[dict, list[dict[str, str]]]:
    """The document and the table of a protocol, whose three files are all there is."""
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.csv", f"{name}.json", f"{name}.png"]
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with open(folder / f"{name}.csv", newline="") as table:
        return json.loads((folder / f"{name}.json").read_text()), list(csv.DictReader(table))


@pytest.fixture(scope="module")
def half_held_out(small_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small atlas with half of its cells as test cells: some twelve of each type and donor."""
    out = tmp_path_factory.mktemp("half") / "prepared"
    prepare(
        small_prepared.parent / "atlas.h5ad",
        out,
        labels=["cell_type", "donor"],
        min_cells_per_gene=0,
        test_fraction=0.5,
        validation_fraction=0.0,
        progress=False,
    )
    return out


def test_intersection(trained: Path, half_held_out: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "model": trained / "model",
        "data": half_held_out,
        "attributes": ("cell_type", "donor"),
        "weights": (0.0, 2.0),
        "seeds": (0, 1),
        "settings": IntersectionSettings(cells=40, n_components=5, variance_components=5),
    }
    with pytest.raises(ValueError, match="no classifier knows 'd9'"):
        intersection_files(pairs=[("B", "d9")], out=tmp_path / "unknown", **given)
    with pytest.raises(ValueError, match="an intersection is of two attributes, not of cell_type"):
        intersection_files(out=tmp_path / "one", **(given | {"attributes": ["cell_type"]}))
    assert list(tmp_path.iterdir()) == []
    document = intersection_files(out=tmp_path / "out", **given)
    found, rows = written(tmp_path / "out", "intersection")
    assert found == json.loads(json.dumps(document))
    pairs = [tuple(of_pair["pair"]) for of_pair in document["pairs"]]
    assert len(set(pairs)) == 6
    assert {kind for kind, _ in pairs} == {"B", "NK", "T"}
    assert len(rows) == 6 * (1 + 2)
    assert [row["weight"] for row in rows[:3]] == ["", "0.0", "2.0"]
    assert all(0 <= float(row["probability_second"]) <= 1 for row in rows)
    # types are told by the genes, donors are names drawn at random: the classifiers know which is which
    kinds, donors = document["classifier_accuracy"]
    assert kinds > 0.8 > 0.5 > donors
    assert f"{sum(p['reached'] is not None for p in document['pairs'])} of 6 pairs" in intersection_table(
        document
    )


def test_guidance(trained: Path, half_held_out: Path, tmp_path: Path) -> None:
    document = guidance_files(
        model=trained / "model",
        data=half_held_out,
        attributes=["cell_type"],
        weights=(0.0, 1.0),
        seeds=(0, 1),
        out=tmp_path / "out",
        settings=EvaluationSettings(n_genes=50, n_components=5, repeats=1),
    )
    found, rows = written(tmp_path / "out", "guidance")
    assert found == json.loads(json.dumps(document))
    assert [float(row["cell_type"]) for row in rows] == [0.0, 1.0]
    # cells told their type lie nearer to those of the type than cells told nothing
    apart, told = (float(row["conditional_w2"]) for row in rows)
    assert told < apart
    assert float(rows[0]["conditional_w2_floor"]) == float(rows[1]["conditional_w2_floor"]) > 0
    assert len(guidance_table(document).splitlines()) == 3


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked")
    small_atlas().write_h5ad(folder / "atlas.h5ad")
    out = folder / "masked.h5ad"
    assert main(["evaluate", "mask", str(folder / "atlas.h5ad"), "--out", str(out), "--share", "0.2"]) == 0
    return out


def test_masked_cells_keep_what_was_hidden_aside(masked: Path) -> None:
    cells, whole = anndata.read_h5ad(masked), small_atlas()
    assert (csr_matrix(cells.layers["complete"]) != whole.X).nnz == 0
    assert cells.X.nnz / whole.X.nnz == pytest.approx(0.8, abs=0.02)
    assert dict(cells.uns["masking"]) == {"share": 0.2, "seed": 0}
    assert list(cells.obs.columns) == list(whole.obs.columns)


def test_imputation(trained: Path, masked: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    line = ["evaluate", "imputation", "--model", str(trained), "--masked", str(masked), "--out", str(out)]
    assert main([*line, "--sigmas", "0", "0.1", "--cells", "200"]) == 0
    document, rows = written(out, "imputation")
    assert document["cells"] == 200
    assert document["kept_share"] == pytest.approx(0.8)
    methods = [row["method"] for row in rows]
    assert methods[:3] == ["autoencoder alone", "CFGen", "CFGen"]
    assert methods[3:] == ["zero", "gene mean", "mean of 15 neighbours"]
    l1 = [float(row["l1"]) for row in rows]
    # trained for a second, it is nearer than zeros by far
    assert max(l1[:3]) < 0.9 * l1[3]
    assert "hidden counts of 200 cells" in capsys.readouterr().out


def test_cells_that_were_not_masked_are_refused(
    trained: Path, small_prepared: Path, tmp_path: Path, capsys
) -> None:
    atlas = small_prepared.parent / "atlas.h5ad"
    line = ["evaluate", "imputation", "--model", str(trained), "--masked", str(atlas)]
    assert main([*line, "--out", str(tmp_path / "out")]) == 1
    assert "no complete counts beside them. Make them by `evaluate mask`" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_masking_does_not_overwrite(masked: Path, capsys) -> None:
    before = masked.read_bytes()
    assert main(["evaluate", "mask", str(masked.parent / "atlas.h5ad"), "--out", str(masked)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert masked.read_bytes() == before


def test_draws_are_told_the_attributes_and_nothing_else(model_path: Path) -> None:
    model = CFGen.load(model_path)
    seen = []
    generate = model.generate_cells
    model.generate_cells = lambda labels, **options: (
        seen.append((labels, options)) or generate(labels, **options)
    )
    counts = ModelDraws(model, ["donor"])([["d2"], ["d1"]] * 600, (2.5,), 7)
    assert counts.shape == (1200, 40)
    labels = np.concatenate([labels for labels, _ in seen])
    np.testing.assert_array_equal(labels, [[-1, 1], [-1, 0]] * 600)
    assert [options["guidance"] for _, options in seen] == [[0.0, 2.5]] * 2
    assert [(options["seed"], options["index"]) for _, options in seen] == [(7, 0), (7, 1)]
    with pytest.raises(SchemaError, match="no attribute 'tissue'"):
        ModelDraws(model, ["tissue"])
    with pytest.raises(SchemaError, match="no modality 'atac'"):
        ModelDraws(model, ["donor"], "atac")
