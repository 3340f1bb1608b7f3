"""Files in, a report out; bad input is refused before anything is written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from cfgen_scale.evaluation import EvaluationSettings
from jobs.evaluation.evaluate import evaluate_files
from loaders.preparation.prepare import prepare

SETTINGS = EvaluationSettings(n_genes=50, n_components=5, repeats=1)


def cells(seed: int, n: int) -> AnnData:
    """``n`` cells of two types, 60 genes, counts of one population whatever the seed."""
    profiles = np.random.default_rng(0).gamma(0.6, 2.0, (2, 60)) + 0.05
    kind = np.arange(n) % 2
    counts = np.random.default_rng([1, seed]).poisson(profiles[kind]).astype(np.int32)
    names = pd.Index([f"cell{i}" for i in range(n)], dtype=object)
    obs = pd.DataFrame({"cell_type": pd.Categorical(np.array(["B", "T"], dtype=object)[kind])}, index=names)
    var = pd.DataFrame(index=pd.Index([f"gene{i}" for i in range(60)], dtype=object))
    return AnnData(csr_matrix(counts), obs=obs, var=var)


@pytest.fixture(scope="module")
def atlases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Train and test cells as .h5ad, generated as .zarr; both prepared; training cells prepared alone."""
    folder = tmp_path_factory.mktemp("atlases")
    paths = {name: folder / f"{name}.h5ad" for name in ("train", "test")}
    paths["generated"] = folder / "generated.zarr"
    cells(0, 160).write_h5ad(paths["train"])
    cells(1, 60).write_h5ad(paths["test"])
    cells(2, 70).write_zarr(paths["generated"])
    common: dict[str, Any] = {"labels": ["cell_type"], "min_cells_per_gene": 0, "validation_fraction": 0.0}
    paths["prepared"] = folder / "prepared"
    prepare(paths["train"], paths["prepared"], test=paths["test"], progress=False, **common)
    paths["untested"] = folder / "untested"
    prepare(paths["train"], paths["untested"], test_fraction=0.0, progress=False, **common)
    return paths


def run(out: Path, atlases: dict[str, Path], **options: Any) -> dict[str, Any]:
    options = {
        "generated": [atlases["generated"]],
        "label": "cell_type",
        "seeds": (0,),
        "settings": SETTINGS,
        "on_step": lambda message: None,
    } | options
    return evaluate_files(out=out, **options)


def test_files_and_the_prepared_atlas_of_them_give_the_same_figures(
    atlases: dict[str, Path], tmp_path: Path
) -> None:
    steps: list[str] = []
    of_files = run(
        tmp_path / "a", atlases, train=atlases["train"], test=atlases["test"], on_step=steps.append
    )
    of_prepared = run(tmp_path / "b", atlases, data=atlases["prepared"])
    apart = dict.fromkeys(("sources", "seconds"))
    assert of_files | apart == of_prepared | apart
    assert sum(of_files["seconds"]["parts"].values()) == pytest.approx(of_files["seconds"]["total"], abs=0.1)
    for folder, metrics in ((tmp_path / "a", of_files), (tmp_path / "b", of_prepared)):
        assert sorted(path.name for path in folder.iterdir()) == ["metrics.json", "report.html"]
        assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert any("floor" in step for step in steps)


def test_progress_goes_to_standard_error(
    atlases: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "out", atlases, test=atlases["test"], on_step=None)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "evaluate: seed 0: generated set 1 against 60 test cells" in shown.err


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({}, ValueError, "no held-out real cells were given: use --data"),
        ({"data": "prepared", "test": "test"}, ValueError, "give real cells once"),
        ({"data": "untested"}, ValueError, "untested has no test cells.*Prepare it with a test"),
        ({"test": "/nowhere/cells.h5ad"}, FileNotFoundError, "/nowhere/cells.h5ad does not exist"),
        (
            {"test": "test", "label": "kind"},
            ValueError,
            r"no column 'kind'.*'cell_type'.*test set: .*test\.h5ad",
        ),
        ({"test": "test", "generated": ["prepared"]}, ValueError, "ends in ''.*h5ad files or .zarr"),
    ],
    ids=["no real cells", "real cells twice", "no test cells", "missing", "label", "no atlas"],
)
def test_bad_input_is_refused_and_nothing_written(
    atlases: dict[str, Path],
    tmp_path: Path,
    options: dict[str, Any],
    error: type[Exception],
    says: str,
) -> None:
    def path(name: str) -> Any:
        return atlases.get(name, name)

    given = {
        key: [path(v) for v in value] if isinstance(value, list) else path(value)
        for key, value in options.items()
    }
    with pytest.raises(error, match=says):
        run(tmp_path / "out", atlases, **given)
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_report_is_left_alone(atlases: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file; the report needs a directory"):
        run(tmp_path / "out", atlases, test=atlases["test"])
    assert (tmp_path / "out").read_text() == "mine"


def test_settings_are_chosen_on_validation_cells(tmp_path: Path, atlases: dict[str, Path]) -> None:
    prepared = tmp_path / "prepared"
    common: dict[str, Any] = {"labels": ["cell_type"], "min_cells_per_gene": 0, "progress": False}
    prepare(atlases["train"], prepared, test=atlases["test"], validation_fraction=0.3, **common)
    sizes = {}
    for split in ("test", "validation"):
        metrics = run(tmp_path / split, atlases, data=prepared, held_out=split)
        sizes[split] = metrics["cells"]["test"]
    assert sizes["test"] == 60
    assert 25 <= sizes["validation"] <= 70
    assert metrics["sources"]["held_out"] == "validation"
    with pytest.raises(FileExistsError, match="is the report of other cells"):
        run(tmp_path / "validation", atlases, data=prepared)


def peaks(seed: int, n: int) -> AnnData:
    """Counts of 0 to 3 in two types of cells, 60 peaks."""
    made = cells(seed, n)
    made.X = csr_matrix(np.minimum(made.X.toarray(), 3))
    made.var_names = [f"peak{i}" for i in range(60)]
    return made


@pytest.fixture(scope="module")
def two_modalities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Generated cells as a MuData-Zarr directory and as .h5mu, whose classes stand at the root alone; and the
    real ones prepared."""
    import h5py
    import zarr
    from anndata.io import write_elem

    folder = tmp_path_factory.mktemp("two-modalities")
    paths = {"zarr": folder / "generated.zarr", "h5mu": folder / "generated.h5mu"}
    rna, atac = cells(2, 70), peaks(3, 70)
    bare = pd.DataFrame(index=rna.obs_names)
    with h5py.File(paths["h5mu"], "w") as file:
        for group in (zarr.open_group(paths["zarr"], mode="w"), file):
            write_elem(group, "obs", rna.obs)
            modalities = group.create_group("mod")
            for name, modality in (("rna", rna), ("atac", atac)):
                write_elem(modalities, name, AnnData(modality.X, obs=bare, var=modality.var))
    for name, make in (("rna", cells), ("atac", peaks)):
        for part, seed, n in (("train", 0, 160), ("test", 1, 60)):
            make(seed, n).write_h5ad(folder / f"{name}-{part}.h5ad")
            paths[f"{name}-{part}"] = folder / f"{name}-{part}.h5ad"
    paths["prepared"] = folder / "prepared"
    prepare(
        paths["rna-train"],
        paths["prepared"],
        modalities={"atac": [paths["atac-train"]]},
        labels=["cell_type"],
        min_cells_per_gene=0,
        test_fraction=0.4,
        validation_fraction=0.0,
        progress=False,
    )
    return paths


@pytest.mark.parametrize("form", ["zarr", "h5mu"])
def test_peaks_of_several_modalities_are_compared_open_or_not(
    two_modalities: dict[str, Path], atlases: dict[str, Path], tmp_path: Path, form: str
) -> None:
    settings = EvaluationSettings(n_components=5, repeats=1, likelihood="bernoulli")
    of_atac: dict[str, Any] = {
        "train": two_modalities["atac-train"],
        "test": two_modalities["atac-test"],
        "generated": [two_modalities[form]],
        "modality": "atac",
    }
    metrics = run(tmp_path / "binary", atlases, settings=settings, **of_atac)
    assert metrics["features"] == "peaks"
    # open or not: no cell has more counts than peaks
    assert metrics["moments"]["library_size_median"]["value"] <= 60
    assert metrics["protocols"]["neutral"]["conditional"]["w2"]["ratio"] == pytest.approx(1, abs=0.15)
    assert metrics["classes"]["scored"] == ["B", "T"]
    assert "peaks" in (tmp_path / "binary" / "report.html").read_text()
    counts = EvaluationSettings(n_components=5, repeats=1, likelihood="poisson")
    whole = run(tmp_path / "counts", atlases, settings=counts, **of_atac)
    value = "library_size_median"
    assert whole["moments"][value]["value"] > metrics["moments"][value]["value"]


def test_a_modality_of_a_prepared_atlas(
    two_modalities: dict[str, Path], atlases: dict[str, Path], tmp_path: Path
) -> None:
    settings = EvaluationSettings(n_components=5, repeats=1, likelihood="bernoulli")
    given: dict[str, Any] = {"data": two_modalities["prepared"], "generated": [two_modalities["zarr"]]}
    metrics = run(tmp_path / "out", atlases, modality="atac", settings=settings, **given)
    assert metrics["genes"] == 60
    for modality, says in ((None, "'atac', 'rna'.*name one"), ("protein", "no modality 'protein'")):
        with pytest.raises(ValueError, match=says):
            run(tmp_path / "other", atlases, modality=modality, settings=settings, **given)
