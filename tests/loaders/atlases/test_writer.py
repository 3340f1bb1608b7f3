import errno
import fcntl
import json
import os
import subprocess
from pathlib import Path

import anndata
import numpy as np
import pytest
import zarr
from scipy.sparse import csr_matrix

from cfgen_scale.types import AtlasSchema, Covariate, GeneratedCells, Modality
from loaders import layout
from loaders.atlases.assembly import check_writable, read_provenance
from loaders.atlases.checksums import read_manifest
from loaders.atlases.chunk_files import ChunkSize, opened_chunk
from loaders.atlases.writer import PartialAtlas
from tests.loaders.generated import SCHEMA, TWO_MODALITIES, cells_of, write_atlas
from tests.tree_bytes import tree_bytes


def test_atlas_holds_what_the_chunks_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Shards of 4 chunks of 7, and of 2 chunks of 16 cells: they begin and end inside the chunks of cells.
    monkeypatch.setattr(layout, "CHUNK", 7)
    monkeypatch.setattr(layout, "SHARD", 7 * 256)
    monkeypatch.setattr(layout, "CHUNK_OF_CELLS", 16)
    monkeypatch.setattr(layout, "SHARD_OF_CELLS", 32)
    chunks = [cells_of(n, seed=n) for n in (90, 1, 137, 64)]
    atlas = anndata.read_zarr(write_atlas(tmp_path / "atlas.zarr", chunks, [0, 1, 2, 3]))
    expected = np.concatenate([c.counts[0].toarray() for c in chunks])
    np.testing.assert_array_equal(atlas.X.toarray(), expected)
    np.testing.assert_array_equal(atlas.obsm["X_cfgen"], np.concatenate([c.latent for c in chunks]))
    labels = np.concatenate([c.labels[:, 0] for c in chunks])
    np.testing.assert_array_equal(atlas.obs["cell_type"].cat.codes, labels)
    assert atlas.obs["cell_type"].isna().sum() == (labels == -1).sum() > 0
    log_size_factor = np.concatenate([c.log_size_factor[:, 0] for c in chunks])
    np.testing.assert_array_equal(atlas.obs["log_size_factor"], log_size_factor)
    np.testing.assert_allclose(atlas.obs["size_factor"], np.exp(log_size_factor), rtol=1e-6)
    assert atlas.obs["request_chunk"].tolist() == np.repeat([0, 1, 2, 3], [90, 1, 137, 64]).tolist()
    assert atlas.obs["request_group"].tolist() == np.repeat([0, 0, 1, 1], [90, 1, 137, 64]).tolist()
    assert tuple(atlas.var_names) == SCHEMA.modalities[0].features
    assert atlas.obs_names.is_unique


@pytest.mark.parametrize(("largest", "dtype"), [(9, np.uint8), (300, np.uint16), (70_000, np.uint32)])
def test_counts_are_as_narrow_as_the_largest_of_any_chunk(tmp_path: Path, largest: int, dtype: type) -> None:
    small = cells_of(30, seed=0)
    large = cells_of(30, seed=1, largest=largest)
    large.counts[0].data[0] = largest
    out = write_atlas(tmp_path / "atlas.zarr", [small, large], [0, 1])
    atlas = anndata.read_zarr(out)
    assert atlas.X.dtype == dtype
    assert atlas.X.max() == largest


def test_bytes_do_not_depend_on_the_order_of_writing(tmp_path: Path) -> None:
    chunks = [cells_of(50, seed=n) for n in range(4)]
    one = write_atlas(tmp_path / "one.zarr", chunks, [0, 1, 2, 3])
    other = write_atlas(tmp_path / "other.zarr", chunks, [3, 1, 0, 2])
    assert tree_bytes(one) == tree_bytes(other)


def test_few_files_one_metadata_and_no_work_directory_are_left(tmp_path: Path) -> None:
    out = write_atlas(tmp_path / "atlas.zarr", [cells_of(50, seed=n) for n in range(20)], list(range(20)))
    assert [path.name for path in tmp_path.iterdir()] == ["atlas.zarr"]
    assert len(tree_bytes(out)) < 60
    assert json.loads((out / "zarr.json").read_text())["consolidated_metadata"]
    assert zarr.open_group(out).metadata.zarr_format == 3


def test_anyone_can_check_the_files(tmp_path: Path) -> None:
    out = write_atlas(tmp_path / "atlas.zarr", [cells_of(50, seed=0)])
    manifest = read_manifest(out / "SHA256SUMS")
    sizes = {file: of.bytes for file, of in manifest.files.items()}
    assert sizes == {file: len(data) for file, data in tree_bytes(out).items() if file != "SHA256SUMS"}
    assert [ChunkSize.of_name(name).cells for name in manifest.chunks] == [50]
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, check=True)


def test_provenance_is_read_back(tmp_path: Path) -> None:
    out = write_atlas(tmp_path / "atlas.zarr", [cells_of(5, seed=0)], [0])
    found = read_provenance(out)
    assert found["plan"] == {"request": [{"cells": 5}]}
    assert AtlasSchema.from_json(found["schema"]) == SCHEMA


@pytest.mark.parametrize("what", ["file", "directory", "zarr"])
def test_what_is_no_atlas_of_ours_is_named(tmp_path: Path, what: str) -> None:
    out = tmp_path / "thing"
    match what:
        case "file":
            out.write_text("x")
        case "directory":
            out.mkdir()
        case "zarr":
            anndata.AnnData(np.eye(3)).write_zarr(out)
    with pytest.raises(FileExistsError, match="thing exists and is not an atlas that was generated"):
        read_provenance(out)


def test_stored_zeros_and_unsorted_indices_are_put_right(tmp_path: Path) -> None:
    cells = cells_of(2, seed=0)
    messy = csr_matrix((np.array([3, 0, 5]), np.array([9, 4, 2]), np.array([0, 3, 3])), shape=(2, 300))
    partial = PartialAtlas.beside(tmp_path / "atlas.zarr")
    with partial.held():
        made = GeneratedCells((messy,), cells.labels, cells.log_size_factor, cells.latent)
        partial.write_chunk(0, made, SCHEMA, group=0)
    path = partial.chunk_file(0)
    assert ChunkSize.of_name(path.name) == ChunkSize(0, cells=2, latent=5, nnz=(2,), largest=(5,))
    with opened_chunk(path) as chunk:
        data, indices, pointers = (chunk.get_tensor(f"{name}.0") for name in ("data", "indices", "indptr"))
    assert (indices.tolist(), data.tolist(), pointers.tolist()) == ([2, 9], [5, 3], [0, 2, 2])
    assert (data.dtype, indices.dtype) == (np.uint8, np.uint16)


def test_counts_that_do_not_fit_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    partial = PartialAtlas.beside(tmp_path / "atlas.zarr")
    cells = cells_of(4, seed=0)
    negative = GeneratedCells((-cells.counts[0],), cells.labels, cells.log_size_factor, cells.latent)
    narrow = GeneratedCells((cells.counts[0][:, :9],), cells.labels, cells.log_size_factor, cells.latent)
    two_factors = GeneratedCells(
        cells.counts, cells.labels, np.repeat(cells.log_size_factor, 2, axis=1), cells.latent
    )
    with partial.held():
        with pytest.raises(ValueError, match="a negative count was drawn: -9"):
            partial.write_chunk(0, negative, SCHEMA, group=0)
        with pytest.raises(ValueError, match=r"counts \(4, 9\) of 'rna' for 4 cells and 300 features"):
            partial.write_chunk(0, narrow, SCHEMA, group=0)
        with pytest.raises(ValueError, match="counts of 1 modalities; the schema has 2"):
            partial.write_chunk(0, two_factors, TWO_MODALITIES, group=0)
        with pytest.raises(ValueError, match=r"log size factors \(4, 1\) for 4 cells and 2 modalities"):
            partial.write_chunk(0, cells, TWO_MODALITIES, group=0)
        assert not partial.has_chunk(0)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    partial = PartialAtlas.beside(tmp_path / "atlas.zarr")
    with (
        partial.held(),
        pytest.raises(RuntimeError, match=rf"another process \(pid {os.getpid()} on .* is writing .*partial"),
        partial.held(),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", refused)
    partial = PartialAtlas.beside(tmp_path / "atlas.zarr")
    with pytest.warns(RuntimeWarning, match="has no locks"), partial.held():
        partial.begin({"plan": 1})
    assert partial.read_plan() == {"plan": 1}


def test_a_directory_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    partial = PartialAtlas.beside(tmp_path / "atlas.zarr")
    partial.path.mkdir()
    assert partial.read_plan() is None
    (partial.path / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match="was not begun by a generation"):
        partial.read_plan()


def test_chunks_are_counted_in_folders_of_a_thousand(tmp_path: Path) -> None:
    partial = PartialAtlas.beside(tmp_path / "atlas.zarr")
    with partial.held():
        for index in (2_000, 3, 999, 1_000):
            partial.write_chunk(index, cells_of(2, seed=index), SCHEMA, group=0)
        assert partial.chunks_there().tolist() == [3, 999, 1_000, 2_000]
        assert partial.has_chunk(999)
        assert not partial.has_chunk(4)
    folders = {path.name: len(list(path.iterdir())) for path in (partial.path / "chunks").iterdir()}
    assert folders == {"0000": 2, "0001": 1, "0002": 1}


@pytest.mark.parametrize("name", ["size_factor", "log_size_factor", "request_group", "_index"])
def test_an_attribute_with_the_name_of_a_column_of_ours_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' has the name of an obs column"):
        check_writable(AtlasSchema(SCHEMA.modalities, (Covariate(name, ("a",)),)))


def test_names_that_would_part_folders_are_refused() -> None:
    with pytest.raises(ValueError, match="attribute 'type/fine' has a slash"):
        check_writable(AtlasSchema(SCHEMA.modalities, (Covariate("type/fine", ("a",)),)))
    with pytest.raises(ValueError, match="modality 'a/b' has a slash"):
        check_writable(AtlasSchema((Modality("a/b", "negative_binomial", ("x",)),), ()))


def test_two_chunks_of_one_index_are_refused(tmp_path: Path) -> None:
    partial = PartialAtlas.beside(tmp_path / "atlas.zarr")
    for seed in (0, 1):
        partial.write_chunk(0, cells_of(4, seed=seed), SCHEMA, group=0)
    with pytest.raises(ValueError, match="are two chunks 0, which came out differently"):
        partial.chunk_table(1)
