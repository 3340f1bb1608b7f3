"""The command line: help that is there at once, errors in one line, status that tells what comes next."""

import json
import shutil
import subprocess
import sys

import anndata
import pytest

from jobs.cli import main, parse
from jobs.tracking import TrackingError
from jobs.training.status import status_of
from tests.loaders.conftest import make_atlas, write_obs_table
from tests.loaders.experiments import add_measurement, write_experiment
from tests.loaders.tenx_files import write_tenx_h5

SUBCOMMANDS = [
    "prepare",
    "plan",
    "train",
    "generate",
    "decode",
    "check",
    "evaluate",
    "evaluate intersection",
    "evaluate guidance",
    "evaluate mask",
    "evaluate imputation",
    "status",
    "demo",
    "models list",
    "models show",
]


@pytest.mark.parametrize("command", [*SUBCOMMANDS, "models show", "models promote"])
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as end:
        parse([*command.split(), "--help"])
    assert end.value.code == 0
    assert f"example:\n  cfgen-scale {command}" in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    """Importing these costs seconds each; help has to be there at once."""
    heavy = ["torch", "ray", "mlflow", "scanpy", "anndata", "zarr", "numpy"]
    script = (
        "import sys; from jobs.cli import parse\n"
        "try: parse(['train', '--help'])\n"
        f"except SystemExit: sys.exit(str([m for m in {heavy} if m in sys.modules]))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ran.stderr.strip() == "[]"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "plan --genes 100",
        "plan --cells 100 --measure",
        "train both --data d --run r",
        "train all --data d",
        "train all --data d --run r --wrokers=2",
        "train all --data d --run r seed",
        "status r flow.cells=1",
        "evaluate",
        "evaluate --data d --label l --out o",
        "evaluate distances --data d",
        "evaluate intersection --model m --data d --attributes cell_type --out o",
        "generate --model m --out o",
        "generate --model m --out o --cells 5 --request r.yaml",
        "generate --model m --out o --cells many",
        "generate --model m --out o --cells 5 --like-obs obs.csv",
        "generate --model m --out o --cells 5 --to h5ad",
        "decode l --out o",
        "check",
        "prepare a.h5ad --out p --test t.h5ad --split-column split",
    ],
)
def test_wrong_usage_is_status_2(line, capsys):
    with pytest.raises(SystemExit) as end:
        main(line.split())
    assert end.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_further_modalities_are_named(tmp_path, capsys):
    rna, protein = make_atlas(n_cells=100), make_atlas(n_cells=100, n_genes=7)
    for name, adata in (("rna", rna), ("protein", protein)):
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    line = [
        "prepare",
        str(tmp_path / "rna.h5ad"),
        "--out",
        str(tmp_path / "out"),
        "--min-cells-per-gene",
        "1",
    ]
    assert main([*line, "--modality", "protein="]) == 1
    assert "write NAME=SOURCE, such as protein=adt.h5ad" in capsys.readouterr().err
    assert main([*line, "--modality", "protein"]) == 1
    assert "neither a MuData nor a SOMA experiment" in capsys.readouterr().err
    assert main([*line, "--modality", f"protein={tmp_path / 'protein.h5ad'}"]) == 0
    assert "rna: 50, protein: 7" in capsys.readouterr().out


def test_likelihoods_and_measurements_are_by_modality(tmp_path, capsys):
    path = write_experiment(make_atlas(n_cells=200), tmp_path / "experiment")
    add_measurement(path, "peaks", make_atlas(n_cells=200, n_genes=30))
    line = ["prepare", str(path), "--out", str(tmp_path / "out"), "--min-cells-per-gene", "0"]
    line += ["--modality", "atac", "--measurement", "rna=RNA", "--measurement", "atac=peaks"]
    assert main([*line, "--likelihood", "atac"]) == 1
    assert "write NAME=KIND, such as atac=bernoulli" in capsys.readouterr().err
    assert main([*line, "--likelihood", "atac=bernoulli"]) == 0
    printed = capsys.readouterr().out
    assert "rna: negative_binomial, atac: bernoulli" in printed
    assert "counts of 'atac' are binarised: 1 where a cell has any" in printed
    assert main([*line, "--layer", "counts", "--layer", "rna=counts"]) == 1
    assert "--layer is given 2 times: write --layer NAME=VALUE" in capsys.readouterr().err


def test_configuration_may_stand_before_and_after_options():
    options = parse(["train", "all", "a=1", "--data", "d", "--run", "r", "flow.cells=5", "seed=-1"])
    assert options.overrides == ["a=1", "flow.cells=5", "seed=-1"]
    assert parse(["train", "flow", "--data", "d", "--run", "r"]).overrides == []


def test_repeatable_options():
    line = ["generate", "--model", "m", "--out", "o", "--cells", "5"]
    options = parse([*line, "--told", "cell_type=B cells", "--told", "donor=d1", "--guidance", "donor=2"])
    assert options.told == ["cell_type=B cells", "donor=d1"]
    assert options.guidance == ["donor=2"]
    assert options.untold == []


def test_evaluate_without_a_protocol_compares_cells():
    line = ["--data", "d", "--generated", "a", "b", "--label", "l", "--out", "o"]
    assert vars(parse(["evaluate", *line])) == vars(parse(["evaluate", "cells", *line]))
    assert parse(["--debug", "evaluate", *line]).debug
    two = ["--model", "m", "--data", "d", "--attributes", "t", "d", "--pair", "B", "d1", "--out", "o"]
    options = parse(["evaluate", "intersection", *two])
    assert options.pair == [["B", "d1"]]


def test_options_of_soma_reach_the_store(tmp_path, capsys):
    path = write_experiment(make_atlas(n_cells=200), tmp_path / "experiment", measurement="spliced")
    line = ["prepare", str(path), "--out", str(tmp_path / "out"), "--min-cells-per-gene", "0"]
    line += ["--measurement", "spliced", "--feature-column", "var_id"]
    assert main([*line, "--obs-filter", 'cell_type == "T cells" and']) == 1
    assert "the obs filter 'cell_type == \"T cells\" and' does not work" in capsys.readouterr().err
    assert main([*line, "--obs-filter", 'cell_type == "T cells"', "--layer", "counts"]) == 0
    assert "read in place" in capsys.readouterr().out
    identity = json.loads((tmp_path / "out" / "prepared.json").read_text())["sources"][0]["identity"]
    assert (identity["measurement"], identity["feature_column"]) == ("spliced", "var_id")
    assert 0 < identity["cells"] < 200


def test_a_table_of_annotations_and_ids_as_names_reach_the_store(tmp_path, capsys):
    atlas = make_atlas(n_cells=200)
    source = write_tenx_h5(atlas, tmp_path / "cells.h5")
    line = ["prepare", str(source), "--out", str(tmp_path / "out"), "--min-cells-per-gene", "0"]
    line += ["--feature-column", "id", "--label", "cell_type"]
    assert main(line) == 1
    assert (
        "no obs column 'cell_type'. Its columns: none at all: give prepare a table" in capsys.readouterr().err
    )
    assert main([*line, "--obs", str(write_obs_table(atlas, tmp_path / "obs.csv"))]) == 0
    assert "200 of 200 cells are in the table of annotations" in capsys.readouterr().out
    schema = json.loads((tmp_path / "out" / "prepared.json").read_text())["schema"]
    assert schema["modalities"][0]["features"][0] == "id_of_gene_0"


def test_a_failure_is_one_readable_line(tmp_path, capsys):
    assert main(["generate", "--model", str(tmp_path / "none"), "--cells", "5", "--out", "atlas.zarr"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("cfgen-scale: error: ")
    assert "none does not exist" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("line", ["--debug status {}", "status {} --debug"])
def test_debug_raises_the_error_itself(line, tmp_path):
    with pytest.raises(ValueError, match="is not a training run"):
        main(line.format(tmp_path).split())


def fail_by_lookup(options):
    raise KeyError("cell_type")


def fail_in_a_library(options):
    json.loads("{")


@pytest.mark.parametrize(
    ("fail", "shown"),
    [(fail_by_lookup, "KeyError: 'cell_type'"), (fail_in_a_library, "JSONDecodeError: Expecting property")],
)
def test_an_error_nobody_wrote_a_message_for_names_its_type(fail, shown, monkeypatch, capsys):
    monkeypatch.setattr("jobs.commands.status", fail)
    assert main(["status", "run"]) == 1
    err = capsys.readouterr().err
    assert shown in err
    assert "--debug shows where" in err


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("jobs.commands.status", interrupted)
    assert main(["status", "run"]) == 130
    assert "The same command again resumes" in capsys.readouterr().err


def test_a_name_that_the_registry_cannot_hold_is_refused_before_training(tmp_path):
    line = f"--debug train all --data {tmp_path}/none --run {tmp_path}/run --register-as pbmc --alias latest"
    with pytest.raises(TrackingError, match="'latest' cannot be an alias"):
        main(line.split())
    assert list(tmp_path.iterdir()) == []


def test_generate_from_a_run(model_path, tmp_path, capsys):
    """A run directory, a model directory and the options of a request, through to the atlas."""
    atlas = tmp_path / "atlas.zarr"
    line = f"generate --model {model_path.parent} --cells 30 --told cell_type=T --untold donor --out {atlas}"
    assert main(line.split()) == 0
    assert f"30 cells in {atlas}" in capsys.readouterr().out
    cells = anndata.read_zarr(atlas)
    assert cells.n_obs == 30
    assert set(cells.obs["cell_type"]) == {"T"}
    assert cells.obs["donor"].isna().all()


def test_what_is_drawn_and_what_is_untold_is_said_in_the_help(capsys):
    with pytest.raises(SystemExit):
        parse(["generate", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "drawn for each cell as it occurs in the training cells together with what the cell" in said


def test_latents_decoded_and_checked(model_path, tmp_path, capsys):
    latents, atlas = tmp_path / "latents.zarr", tmp_path / "atlas.zarr"
    table = tmp_path / "obs.csv"
    table.write_text("cell,cell_type,n_counts\na,B,100\nb,,200\nc,T,300\n")
    line = f"generate --model {model_path} --like-obs {table} --copy-size-factors n_counts --out {latents}"
    assert main([*line.split(), "--latents-only"]) == 0
    assert f"next: cfgen-scale decode {latents} --model {model_path}" in capsys.readouterr().err
    assert main(f"decode {latents} --model {model_path} --out {atlas}".split()) == 0
    assert f"3 cells in {atlas}" in capsys.readouterr().out
    cells = anndata.read_zarr(atlas)
    assert cells.obs["cell_type"].astype(object).fillna("").tolist() == ["B", "", "T"]
    for path in (latents, atlas):
        assert main(["check", str(path)]) == 0
        assert "is complete and as it was written: 3 cells" in capsys.readouterr().out


def test_check_says_what_is_wrong_and_fails(model_path, tmp_path, capsys):
    atlas = tmp_path / "atlas.zarr"
    assert main(f"generate --model {model_path} --cells 30 --out {atlas}".split()) == 0
    largest = max((path for path in (atlas / "X").rglob("c/*")), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    capsys.readouterr()
    assert main(["check", str(atlas)]) == 1
    said = capsys.readouterr()
    assert str(largest.relative_to(atlas)) in said.out
    assert "kinds of problems" in said.err


def test_a_soma_experiment_beside_the_atlas(model_path, tmp_path, capsys):
    import pyarrow
    import tiledbsoma

    atlas, soma = tmp_path / "atlas.zarr", tmp_path / "atlas.soma"
    line = f"generate --model {model_path} --cells 30 --out {atlas} --to soma"
    assert main([*line.split(), "--latents-only"]) == 1
    assert "--to soma writes counts" in capsys.readouterr().err
    for _ in range(2):  # again: both are there
        assert main(line.split()) == 0
        assert f"SOMA experiment in {soma}" in capsys.readouterr().out
    with tiledbsoma.open(str(soma)) as experiment:
        assert experiment.obs.count == 30
    assert main(["check", str(atlas)]) == 0
    assert f"{soma} says the same" in capsys.readouterr().out
    with tiledbsoma.open(str(soma / "ms/RNA/X/counts"), "w") as counts:
        kind = counts.schema.field("soma_data").type
        values = pyarrow.array([9], pyarrow.int64()).cast(kind)
        counts.write(pyarrow.table({"soma_dim_0": [3], "soma_dim_1": [0], "soma_data": values}))
    assert main(["check", str(atlas)]) == 1
    assert "counts, cells 0 to 29: they are not as in the atlas" in capsys.readouterr().out
    shutil.rmtree(atlas)
    other = f"generate --model {model_path} --cells 30 --seed 1 --out {atlas}"
    assert main(other.split()) == 0
    assert main([*other.split(), "--to", "soma"]) == 1
    assert "atlas.soma is not the experiment of" in capsys.readouterr().err
    moved = f"generate --model {model_path} --cells 30 --out {tmp_path / 'other.zarr'} --to soma"
    soma.rename(tmp_path / "other.soma")
    assert main(moved.split()) == 1
    assert "other.soma exists, and the atlas" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--request r.yaml --size-factor 5", "--size-factor goes with --cells and --like-obs"),
        ("--cells 5 --copy-size-factors n", "--copy-size-factors goes with --like-obs"),
        ("--request r.yaml --told donor=d1", "--told goes with --cells"),
    ],
)
def test_options_of_a_request_that_do_not_go_together(model_path, tmp_path, capsys, options, says):
    assert main(f"generate --model {model_path} --out {tmp_path}/o.zarr {options}".split()) == 1
    assert says in capsys.readouterr().err


def row(cells_seen, stage="autoencoder"):
    return {"stage": stage, "cells_seen": cells_seen, "cells_total": 1000, "loss": 2.5}


@pytest.fixture
def run_dir(tmp_path):
    """A run that was stopped in the middle of its first stage."""
    (tmp_path / "run.json").write_text(json.dumps({"data": "/data/pbmc"}))
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row(400)) + "\n")
    return tmp_path


def test_status_of_a_run_that_was_stopped(run_dir, capsys):
    assert main(["status", str(run_dir)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"run          {run_dir} on /data/pbmc, interrupted: the same train command resumes it",
        "autoencoder  40% of 1,000 cells, loss 2.5",
        "flow         not begun",
        f"next         cfgen-scale train all --data /data/pbmc --run {run_dir}",
    ]


def test_status_of_a_complete_run(run_dir):
    for stage in ("autoencoder", "flow"):
        (run_dir / stage).mkdir()
        (run_dir / stage / "result.safetensors").touch()
    (run_dir / "model").mkdir()
    lines = list(status_of(run_dir))
    assert lines[0].endswith("complete")
    assert lines[1] == "autoencoder  finished after 400 of at most 1,000 cells, loss 2.5"
    assert lines[-1].startswith(f"next         cfgen-scale generate --model {run_dir}")


def test_status_knows_that_training_goes_on(run_dir):
    from jobs.training.run_directory import RunDirectory, sole_trainer

    with sole_trainer(RunDirectory(run_dir)):
        assert next(iter(status_of(run_dir))).endswith("in training now")
    assert "interrupted" in next(iter(status_of(run_dir)))
