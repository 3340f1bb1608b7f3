"""A check finds where an experiment differs from its atlas, and nothing in one that does not."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tiledbsoma

from cfgen_scale.types import AtlasSchema, Modality
from loaders.atlases.check_soma import check_soma
from loaders.atlases.soma_writer import write_soma
from tests.loaders.generated import CELL_TYPE, PROTEIN, cells_of, write_atlas
from tests.soma_contents import small_slabs

GENES = tuple(f"gene_{i}" for i in range(40))
SCHEMA = AtlasSchema((Modality("rna", "negative_binomial", GENES), PROTEIN), (CELL_TYPE,))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An atlas of three slabs of cells, and its experiment."""
    chunks = [cells_of(n, seed=n, schema=SCHEMA) for n in (1_400, 1_500, 1_300)]
    with small_slabs():
        atlas = write_atlas(tmp_path_factory.mktemp("soma") / "atlas.zarr", chunks, schema=SCHEMA)
        write_soma(atlas, atlas.with_suffix(".soma"))
        yield atlas


@pytest.fixture
def experiment(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole.with_suffix(".soma"), tmp_path / "atlas.soma"))


def found(atlas: Path, experiment: Path) -> list[str]:
    return [str(problem) for problem in check_soma(atlas, experiment)]


def write_count(experiment: Path, array: str, cell: int, feature: int, count: int) -> None:
    with tiledbsoma.open(str(experiment / array), "w") as counts:
        kind = counts.schema.field("soma_data").type
        values = pa.array([count], pa.int64()).cast(kind)
        counts.write(pa.table({"soma_dim_0": [cell], "soma_dim_1": [feature], "soma_data": values}))


def test_an_experiment_as_it_was_written_has_no_problems(whole: Path, experiment: Path) -> None:
    assert found(whole, experiment) == []


@pytest.mark.parametrize("array", ["ms/RNA/X/counts", "ms/protein/X/counts"])
def test_a_changed_count_is_found_in_its_slab(whole: Path, experiment: Path, array: str) -> None:
    with tiledbsoma.open(str(experiment / array)) as counts:
        last = counts.read(coords=(slice(4_100, None),)).tables().concat().slice(0, 1).to_pydict()
    cell, feature, count = (last[name][0] for name in ("soma_dim_0", "soma_dim_1", "soma_data"))
    write_count(experiment, array, cell, feature, count + 1)
    (problem,) = found(whole, experiment)
    assert f"{array}, cells 4,096 to 4,199: they are not as in the atlas" in problem


def test_a_changed_latent_is_found_in_its_slab(whole: Path, experiment: Path) -> None:
    with tiledbsoma.open(str(experiment / "ms/RNA/obsm/X_cfgen"), "w") as latents:
        row = np.full((1, latents.shape[1]), 7, dtype=np.float32)
        latents.write((slice(2_048, 2_048), slice(None)), pa.Tensor.from_numpy(row))
    (problem,) = found(whole, experiment)
    assert problem.startswith("SOMA latents: ms/RNA/obsm/X_cfgen, cells 2,048 to 4,095")


def test_another_cell_name_is_found_in_its_slab(whole: Path, experiment: Path) -> None:
    with tiledbsoma.open(str(experiment / "obs")) as frame:
        row = frame.read(coords=([5],)).concat()
    at = row.column_names.index("obs_id")
    row = row.set_column(at, row.schema.field(at), pa.array(["somebody"], row.schema.field(at).type))
    with tiledbsoma.open(str(experiment / "obs"), "w") as frame:
        frame.write(row)
    (problem,) = found(whole, experiment)
    assert problem.startswith("SOMA obs: obs, cells 0 to 2,047")


def test_what_was_lost_or_came_from_elsewhere_is_found(whole: Path, experiment: Path) -> None:
    commits = sorted((experiment / "ms/RNA/X/counts/__commits").glob("*.wrt"))
    commits[0].unlink()
    assert any(problem.startswith("SOMA size: ms/RNA/X/counts holds") for problem in found(whole, experiment))
    fragment = max((experiment / "ms/protein/X/counts/__fragments").rglob("*.tdb"))
    fragment.unlink()
    assert any(problem.startswith("SOMA unreadable") for problem in found(whole, experiment))
    with tiledbsoma.open(str(experiment), "w") as opened:
        opened.metadata["cfgen_scale.schema"] = json.dumps({})
    (problem,) = found(whole, experiment)
    assert problem.startswith("SOMA schema")
    shutil.rmtree(experiment)
    (problem,) = found(whole, experiment)
    assert problem.startswith("SOMA unreadable")
