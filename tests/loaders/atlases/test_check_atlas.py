"""A check finds what is wrong with an atlas, and nothing in one that is right."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import zarr
from scipy.sparse import csr_matrix

from cfgen_scale.types import AtlasSchema, GeneratedCells, Modality
from loaders import layout
from loaders.atlases import check_atlas as checking
from loaders.atlases import checked_cells
from loaders.atlases.check_atlas import Report, check_atlas
from loaders.atlases.checksums import Manifest, describe, files_below
from tests.loaders.generated import CELL_TYPE, RNA, TWO_MODALITIES, cells_of, latents_of, write_atlas

CHUNKS = [cells_of(n, seed=n, schema=TWO_MODALITIES) for n in (90, 1, 137, 64)]


@pytest.fixture(autouse=True, scope="module")
def _small_slabs() -> Any:
    """Slabs of 64 cells and of 1,000 counts, so that problems are found behind the first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "CHUNK_OF_CELLS", 16)
        patch.setattr(layout, "SHARD_OF_CELLS", 64)
        patch.setattr(checking, "SHARD_OF_CELLS", 64)
        patch.setattr(checked_cells, "COUNTS_AT_ONCE", 1_000)
        yield


@pytest.fixture(scope="module")
def whole(_small_slabs: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_atlas(tmp_path_factory.mktemp("checked") / "atlas.zarr", CHUNKS, schema=TWO_MODALITIES)


@pytest.fixture
def atlas(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "atlas.zarr"))


def kinds(report: Report) -> list[str]:
    return [problem.kind for problem in report.problems]


def test_a_whole_atlas_has_no_problems(whole: Path) -> None:
    report = check_atlas(whole)
    assert report.problems == ()
    assert report.ok
    files = [path for path in whole.rglob("*") if path.is_file()]
    assert (report.cells, report.files) == (292, len(files))
    assert report.bytes == sum(path.stat().st_size for path in files)


def test_latents_alone_are_checked(tmp_path: Path) -> None:
    chunks = [latents_of(cells) for cells in CHUNKS]
    assert check_atlas(write_atlas(tmp_path / "a.zarr", chunks, schema=TWO_MODALITIES)).problems == ()


@pytest.mark.parametrize(("largest", "expected"), [(1, []), (2, ["counts of 'atac'"])])
def test_binarised_counts_are_ones(largest: int, expected: list[str], tmp_path: Path) -> None:
    peaks = Modality("atac", "bernoulli", tuple(f"peak_{i}" for i in range(50)))
    schema = AtlasSchema((RNA, peaks), (CELL_TYPE,))
    rna = cells_of(90, seed=0)
    open_peaks = csr_matrix((np.arange(90 * 50).reshape(90, 50) % 7 == 0).astype(np.int32))
    open_peaks.data[-1] = largest
    cells = GeneratedCells((*rna.counts, open_peaks), rna.labels, rna.log_size_factor, rna.latent)
    out = write_atlas(tmp_path / "atlas.zarr", [cells], schema=schema)
    assert kinds(check_atlas(out)) == expected
    # A binarised modality has no size factor, so that there is but one.
    assert "size_factor" in anndata.io.read_elem(zarr.open_group(out)["obs"])


def test_a_turned_bit_is_found(atlas: Path) -> None:
    shard = atlas / "mod/rna/X/data/c/0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    report = check_atlas(atlas)
    assert "changed file" in kinds(report)
    assert "mod/rna/X/data/c/0 is not as it was written" in str(report.problems[0])
    assert "Copy the atlas again" in str(report.problems[0])


def test_a_missing_and_an_unknown_file_are_found(atlas: Path) -> None:
    (atlas / "obsm/X_cfgen/c/2/0").unlink()
    (atlas / "notes.txt").write_text("mine")
    found = {problem.kind: problem.where for problem in check_atlas(atlas).problems}
    assert "obsm/X_cfgen/c/2/0 is not there" in found["missing file"]
    assert "notes.txt was not written by the generation" in found["unknown file"]


def test_a_damaged_root_is_found(atlas: Path) -> None:
    (atlas / "zarr.json").write_text("{")
    report = check_atlas(atlas)
    assert kinds(report) == ["changed file", "metadata"]
    assert report.cells == 0


def test_an_atlas_without_its_manifest_is_read_all_the_same(atlas: Path) -> None:
    (atlas / "SHA256SUMS").unlink()
    assert kinds(check_atlas(atlas)) == ["manifest"]


@pytest.mark.parametrize("what", ["nothing", "another zarr"])
def test_what_is_no_atlas_is_refused(what: str, tmp_path: Path) -> None:
    if what == "nothing":
        with pytest.raises(FileNotFoundError, match="there is no atlas at"):
            check_atlas(tmp_path / "atlas.zarr")
        return
    anndata.AnnData(np.eye(3)).write_zarr(tmp_path / "atlas.zarr")
    with pytest.raises(FileExistsError, match="is not an atlas that was generated"):
        check_atlas(tmp_path / "atlas.zarr")


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (
            [{"cells": 91}, {"cells": 200}, {"cells": 1}],
            "groups: group 1 of the request has 201 cells, and 200 were asked for",
        ),
        (
            {"groups": [{"cells": 91}]},
            "provenance: the provenance does not say how many cells were asked for",
        ),
    ],
)
def test_the_numbers_of_cells_are_those_asked_for(request_: object, says: str, tmp_path: Path) -> None:
    provenance = {"plan": {"request": request_}}
    out = write_atlas(tmp_path / "a.zarr", CHUNKS, schema=TWO_MODALITIES, provenance=provenance)
    (problem,) = check_atlas(out).problems
    assert str(problem).startswith(says)


def changed(atlas: Path, path: str, change: Callable[[np.ndarray], None]) -> None:
    """Change an array, and sign it as if it had been written so."""
    array = zarr.open_group(atlas, mode="r+")[path]
    values = array[...]
    change(values)
    array[...] = values
    sign(atlas)


def sign(atlas: Path) -> None:
    files = set(files_below(atlas)) - {"SHA256SUMS"}
    (atlas / "SHA256SUMS").write_bytes(Manifest({file: describe(atlas, file) for file in files}, ()).encode())


def put(place: Any, value: Any) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[place] = value

    return change


def one_less_at_the_end(values: np.ndarray) -> None:
    values[-1] -= 1


def swap_features(values: np.ndarray) -> None:
    values[[4_000, 4_001]] = values[[4_001, 4_000]]


@pytest.mark.parametrize(
    ("path", "change", "expected"),
    [
        ("mod/rna/X/data", put(4_000, 0), "counts of 'rna': first in cell {row of 4000}"),
        ("mod/rna/X/indices", put(4_000, 300), "features out of range of 'rna': first in cell {row of 4000}"),
        ("mod/rna/X/indices", put(4_000, -1), "features out of range of 'rna': first in cell {row of 4000}"),
        ("mod/rna/X/indices", swap_features, "order of features of 'rna': first in cell {row of 4001}"),
        ("mod/protein/X/indptr", put(200, 0), "row pointers of 'protein': they do not rise within"),
        ("mod/rna/X/indptr", put(0, 1), "row pointers of 'rna': they begin at 1 and not at 0"),
        ("mod/rna/X/indptr", one_less_at_the_end, "row pointers of 'rna': they end at .* and not at"),
        ("obs/cell_type/codes", put(77, 2), "labels of 'cell_type': first in cell 77"),
        ("obs/size_factor:rna", put(77, 1.0), "size_factor:rna: first in cell 77"),
        ("obs/log_size_factor:rna", put(77, np.nan), "size_factor:rna: first in cell 77"),
        ("obs/request_chunk", put(128, 0), "chunks: first in cell 128"),
        ("obs/request_group", put(200, 0), "groups: group 0 of the request has 92 cells, and 91 were asked"),
        ("obsm/X_cfgen", put((150, 2), np.inf), "latents: first in cell 150"),
        ("obs/_index", put(3, "mine"), "names: first in cell 3"),
        ("mod/rna/var/_index", put(7, "other"), "schema: the features of 'rna' are not those .* is number 7"),
        (
            "obs/cell_type/categories",
            put(1, "X"),
            "schema: the categories of obs column 'cell_type' .* number 1",
        ),
    ],
)
def test_contents_that_are_wrong_are_found(
    path: str, change: Callable[[np.ndarray], None], expected: str, atlas: Path
) -> None:
    pointers = zarr.open_group(atlas)["mod/rna/X/indptr"][...]
    for place in (4_000, 4_001):
        row = int(np.searchsorted(pointers, place, side="right")) - 1
        expected = expected.replace(f"{{row of {place}}}", str(row))
    changed(atlas, path, change)
    report = check_atlas(atlas)
    found = [problem for problem in report.problems if re.match(expected, str(problem))]
    assert len(found) == 1, report.problems
    # A feature that is out of range is out of order too; nothing else is said of anything else.
    assert len(report.problems) <= 2, report.problems


def test_an_array_of_another_length_is_found(atlas: Path) -> None:
    (atlas / "SHA256SUMS").unlink()
    zarr.open_group(atlas, mode="r+")["obs/request_chunk"].resize((291,))
    layout.consolidate(atlas)
    sign(atlas)
    report = check_atlas(atlas)
    assert kinds(report) == ["shape"]
    assert "obs/request_chunk is (291,) and not (292,)" in str(report.problems[0])


def test_a_column_too_many_is_found(atlas: Path) -> None:
    document = json.loads((atlas / "zarr.json").read_text())
    of_obs = document["consolidated_metadata"]["metadata"]["obs"]["attributes"]
    of_obs["column-order"] = [*of_obs["column-order"], "mine"]
    (atlas / "zarr.json").write_text(json.dumps(document))
    sign(atlas)
    assert kinds(check_atlas(atlas)) == ["schema"]
