"""Imports run one way: cfgen_scale <- loaders <- jobs; and heavy machinery stays in its place."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "cfgen_scale": {"loaders", "jobs", "ray", "mlflow", "zarr", "tiledbsoma"},
    "loaders": {"jobs", "ray", "mlflow", "torchdyn", "accelerate"},
    "jobs": {"tests"},
}


def imported(path: Path) -> set[str]:
    """Full names of the modules a file imports, wherever in it; relative ones stay within its package."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return names


def files_of(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"no files in {package}: the test looks in the wrong place"
    return found


@pytest.mark.parametrize("package", list(FORBIDDEN))
def test_imports_run_one_way(package):
    for path in files_of(package):
        roots = {name.split(".")[0] for name in imported(path)}
        assert not roots & FORBIDDEN[package], (
            f"{path.relative_to(ROOT)} imports {roots & FORBIDDEN[package]}"
        )


def test_loaders_take_types_alone_from_the_science():
    for path in files_of("loaders"):
        taken = {name for name in imported(path) if name.split(".")[0] == "cfgen_scale"}
        assert taken <= {"cfgen_scale.types", "cfgen_scale.files"}, path.name


def test_torch_is_known_to_the_hand_over_alone():
    """Pinned buffers and PyTorch's dataset; all else in loaders is NumPy."""
    for path in files_of("loaders"):
        if "torch" in {name.split(".")[0] for name in imported(path)}:
            assert path.name in ("dense.py", "torch_dataset.py"), path.name


def test_mlflow_is_known_to_tracking_alone():
    for path in files_of("jobs"):
        if "mlflow" in {name.split(".")[0] for name in imported(path)}:
            assert path.parent.name == "tracking", path.name


def test_evaluation_alone_knows_the_measuring_libraries():
    for path in files_of("cfgen_scale"):
        if {"scanpy", "ot", "sklearn"} & {name.split(".")[0] for name in imported(path)}:
            assert path.parent.name == "evaluation", path.name


def test_the_command_line_answers_help_without_the_heavy_libraries():
    asked = "import sys; from jobs.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    asked += "print([m for m in ('torch', 'ray', 'mlflow', 'scanpy', 'zarr', 'ot') if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert answer.stdout.strip().endswith("[]"), answer.stdout.splitlines()[-1]
