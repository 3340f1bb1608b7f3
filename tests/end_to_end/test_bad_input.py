"""Bad input on the command line: refused in a line that says what, where and what to do, and no trace."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import anndata
import numpy as np
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from jobs.cli import main
from jobs.config import load_config
from jobs.training.run_directory import open_run
from loaders.preparation.prepare import prepare
from tests.small_atlas import N_CELLS, SMALL_RUN, small_atlas
from tests.tiny_model import save_tiny_model
from tests.tree_bytes import tree_bytes

Capture = pytest.CaptureFixture[str]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def inputs(small_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what a user may have: good files, bad files, a model, a run that was begun."""
    folder = tmp_path_factory.mktemp("inputs")
    write_atlases(folder)
    common = {"labels": ["cell_type"], "min_cells_per_gene": 0, "progress": False}
    prepare(folder / "atlas.h5ad", folder / "prepared", **common)
    prepare(folder / "atlas.h5ad", folder / "others", seed=1, **common)
    prepare(folder / "atlas.h5ad", folder / "unvalidated", validation_fraction=0, **common)
    save_tiny_model(folder / "model")
    begin_run(folder)
    line = f"generate --model {folder}/model --cells 20 --out {folder}/generated.zarr"
    assert main(line.split()) == 0
    (folder / "notes").mkdir()
    (folder / "notes" / "notes.txt").write_text("mine")
    (folder / "table.csv").write_text("gene,count\n")
    return folder


def write_atlases(folder: Path) -> None:
    small_atlas().write_h5ad(folder / "atlas.h5ad")
    for name, value in (("fraction", 1.5), ("negative", -1.0), ("nan", np.nan)):
        spoilt(value).write_h5ad(folder / f"{name}.h5ad")
    renamed(lambda gene: "gene7" if gene == "gene8" else gene).write_h5ad(folder / "twice.h5ad")
    renamed(lambda gene: gene.upper()).write_h5ad(folder / "genes.h5ad")


def spoilt(value: float) -> AnnData:
    """The small atlas with one entry that is no count: that of gene5 in cell3."""
    atlas = small_atlas()
    counts = atlas.X.toarray()
    counts[3, 5] = value
    atlas.X = csr_matrix(counts)
    return atlas


def renamed(name: Callable[[str], str]) -> AnnData:
    atlas = small_atlas()
    atlas.var.index = atlas.var.index.map(name)
    return atlas


def begin_run(folder: Path) -> None:
    from loaders.preparation.prepared import Prepared

    data = folder / "prepared"
    config = asdict(load_config(overrides=SMALL_RUN))
    open_run(folder / "begun", config=config, data=data, data_digest=Prepared.open(data).digest)


@pytest.fixture
def refused(inputs: Path, tmp_path: Path, capsys: Capture) -> Refused:
    """Run a command line, in which {} is the folder of inputs and OUT a place where nothing is yet.

    Returns its one line of error, having checked that nothing was written, neither there nor anywhere else.
    """

    def run(line: str, *more: str) -> str:
        before = tree_bytes(inputs)
        place = {"{}": str(inputs), "OUT": str(tmp_path / "out")}
        arguments = [*line.split(), *more]
        for name, path in place.items():
            arguments = [argument.replace(name, path) for argument in arguments]
        capsys.readouterr()
        assert main(arguments) == 1
        errors = capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
        assert tree_bytes(inputs) == before
        assert "Traceback" not in errors
        assert "unforeseen" not in errors
        assert errors.count("error: ") == 1
        return errors.splitlines()[-1].replace(str(inputs), "{}")

    return run


@pytest.mark.parametrize("repack", [[], ["--repack"]], ids=["", "repacked"])
@pytest.mark.parametrize(("file", "value"), [("fraction", "1.5"), ("negative", "-1"), ("nan", "nan")])
def test_what_is_no_count(refused: Refused, file: str, value: str, repack: list[str]) -> None:
    error = refused(f"prepare {{}}/{file}.h5ad --out OUT", *repack)
    assert f"{{}}/{file}.h5ad: cell 'cell3' (row 3), gene 'gene5' has {value}, which is not a count" in error
    assert "name the layer that holds the raw counts" in error


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "prepare {}/atlas.h5ad --label tissue --out OUT",
            ["{}/atlas.h5ad has no obs column 'tissue'", "cell_type, donor, split"],
        ),
        ("prepare {}/atlas.h5ad --layer raw --out OUT", ["{}/atlas.h5ad has no layer 'raw'", "Its layers"]),
        ("prepare {}/nowhere.h5ad --out OUT", ["there is nothing at {}/nowhere.h5ad"]),
        ("prepare {}/table.csv --out OUT", ["{}/table.csv is a .csv file", "Give a .h5ad file"]),
        ("prepare {}/twice.h5ad --out OUT", ["{}/twice.h5ad", "'gene7'", "Make them unique"]),
        (
            "prepare {}/atlas.h5ad --test {}/genes.h5ad --out OUT",
            ["{}/genes.h5ad has gene 'GENE0' and {}/atlas.h5ad has not", "Give all sources the same genes"],
        ),
        (
            "prepare {}/atlas.h5ad --label cell_type --min-cells-per-gene 0 --seed 2 --out {}/prepared",
            ["{}/prepared was prepared with seed = 0, and now seed = 2", "another directory"],
        ),
        ("prepare {}/atlas.h5ad --out {}/notes", ["{}/notes exists and is not a prepared atlas", "another"]),
    ],
    ids=["label", "layer", "path", "no store", "genes twice", "other genes", "other request", "occupied"],
)
def test_what_cannot_be_prepared(refused: Refused, line: str, says: list[str]) -> None:
    error = refused(line)
    assert all(words in error for words in says), error


def test_cells_without_counts_are_dropped_and_counted(tmp_path: Path, capsys: Capture) -> None:
    atlas = small_atlas()
    counts = atlas.X.toarray()
    counts[[5, 70, 299]] = 0
    atlas.X = csr_matrix(counts)
    atlas.write_h5ad(tmp_path / "atlas.h5ad")
    assert main(["prepare", str(tmp_path / "atlas.h5ad"), "--out", str(tmp_path / "prepared")]) == 0
    summary = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["cells", str(N_CELLS - 3)] in summary
    assert ["cells", "dropped", "(no", "counts)", "3"] in summary


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--data {}/nowhere --run OUT", ["there is no prepared atlas at {}/nowhere", "cfgen-scale prepare"]),
        ("--data {}/notes --run OUT", ["{}/notes is not a prepared atlas"]),
        ("--data {}/prepared --run {}/notes", ["{}/notes exists and is not a training run", "another --run"]),
        (
            "--data {}/prepared --run {}/begun flow.cells=77",
            ["begun with flow.cells=2000, not 77", "another --run"],
        ),
        (
            "--data {}/others --run {}/begun",
            [
                "{}/begun was begun on other cells, or on these in another order ({}/prepared)",
                "another --run",
            ],
        ),
        (
            "--data {}/prepared --run OUT flow.batchcells=9",
            ["unknown configuration key 'flow.batchcells'", "Did you mean flow.batch_cells?"],
        ),
        (
            "--data {}/prepared --run OUT --config {}/nowhere.yaml",
            ["no configuration file {}/nowhere.yaml"],
        ),
        ("--data {}/prepared --run OUT flow.cells=many", ["flow.cells", "integer", "'many'"]),
        (
            "--data {}/prepared --run OUT flow.cells=0",
            ["key flow: cells must be positive, not 0."],
        ),
        (
            "--data {}/prepared --run OUT --workers 2 flow.batch_cells=67",
            ["flow.batch_cells=67 can be shared by at most 1 workers, not 2", "multiple of 2 such as 68"],
        ),
        (
            "--data {}/prepared --run OUT --workers 65",
            ["at most 32 workers, not 65. No batch is shared by more than 64"],
        ),
        (
            "--data {}/unvalidated --run OUT autoencoder.patience=5",
            ["autoencoder.patience=5", "--validation-fraction 0.1", "autoencoder.patience=0"],
        ),
        (
            "--data {}/prepared --run OUT model.autoencoder.theta_by=donor",
            ["model.autoencoder.theta_by='donor'", "Its labels: cell_type"],
        ),
        ("--data {}/prepared --run OUT --workers -1", ["workers must be 0", "not -1"]),
    ],
    ids=[
        "data",
        "not data",
        "occupied",
        "other configuration",
        "other cells",
        "unknown key",
        "no file",
        "wrong type",
        "out of range",
        "batch not divisible",
        "more workers than lanes",
        "nothing to validate on",
        "unknown label",
        "workers",
    ],
)
def test_what_cannot_be_trained(refused: Refused, line: str, says: list[str]) -> None:
    error = refused("train all --workers 0", *SMALL_RUN, *line.split())
    assert all(words in error for words in says), error


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--model {}/nowhere --cells 9 --out OUT", ["{}/nowhere does not exist"]),
        ("--model {}/notes --cells 9 --out OUT", ["{}/notes", "model"]),
        ("--model {}/begun --cells 9 --out OUT", ["{}/begun", "model"]),
        (
            "--model {}/model --cells 9 --told cell_type=Platelet --out OUT",
            ["'cell_type' has no category 'Platelet'", "'B', 'NK', 'T'"],
        ),
        (
            "--model {}/model --cells 9 --told tissue=lung --out OUT",
            ["no attribute 'tissue'", "cell_type, donor"],
        ),
        ("--model {}/model --cells 0 --out OUT", ["cells must be a whole number above 0, not 0"]),
        ("--model {}/model --cells 9 --request {}/nowhere.yaml --out OUT", ["{}/nowhere.yaml"]),
        (
            "--model {}/model --cells 9 --out {}/generated.zarr",
            ["{}/generated.zarr is an atlas of", "Choose another path"],
        ),
        ("--model {}/model --cells 9 --out {}/notes", ["{}/notes", "another"]),
    ],
    ids=[
        "nowhere",
        "no model",
        "no model yet",
        "category",
        "attribute",
        "none",
        "request",
        "other",
        "occupied",
    ],
)
def test_what_cannot_be_generated(refused: Refused, line: str, says: list[str]) -> None:
    if "--request" in line:
        line = line.replace("--cells 9 ", "")
    error = refused(f"generate {line}")
    assert all(words in error for words in says), error


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "--generated {}/generated.zarr --label cell_type --data {}/prepared",
            ["'gene0' is missing in generated set 1", "{}/generated.zarr"],
        ),
        ("--generated {}/nowhere.zarr --label cell_type --data {}/prepared", ["{}/nowhere.zarr does not"]),
        ("--generated {}/atlas.h5ad --label tissue --test {}/atlas.h5ad", ["'tissue'", "cell_type"]),
        (
            "--generated {}/fraction.h5ad --label cell_type --test {}/atlas.h5ad",
            ["{}/fraction.h5ad", "1.5", "cell3"],
        ),
        (
            "--generated {}/nan.h5ad --label cell_type --test {}/atlas.h5ad",
            ["{}/nan.h5ad", "nan", "cell3"],
        ),
    ],
    ids=["other genes", "path", "label", "fraction", "nan"],
)
def test_what_cannot_be_compared(refused: Refused, line: str, says: list[str]) -> None:
    error = refused(f"evaluate {line} --out OUT")
    assert all(words in error for words in says), error


def test_the_inputs_that_are_good_are_accepted(inputs: Path, tmp_path: Path, capsys: Capture) -> None:
    """The same command lines without their fault work: it is the fault that is refused."""
    line = f"prepare {inputs}/atlas.h5ad --label cell_type --min-cells-per-gene 0 --out {inputs}/prepared"
    assert main(line.split()) == 0
    assert "already prepared" in capsys.readouterr().out
    line = f"generate --model {inputs}/model --cells 9 --told cell_type=NK --out {tmp_path}/atlas.zarr"
    assert main(line.split()) == 0
    assert anndata.read_zarr(tmp_path / "atlas.zarr").n_obs == 9
