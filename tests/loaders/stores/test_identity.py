"""What a store's identity sees, the same for every kind, and what it does not depend on."""

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from loaders.preparation.prepare import prepare
from loaders.preparation.prepared import Prepared
from loaders.stores.identity import SAMPLED_CELLS, difference, require_identity, sampled
from loaders.stores.opening import open_store
from tests.loaders.conftest import FORMATS, READ_IN_PLACE, make_atlas, write_as


def identity(atlas: AnnData, form: str, folder: Path) -> dict[str, object]:
    folder.mkdir()
    return open_store(write_as(atlas, form, folder)).identity()


def with_counts(atlas: AnnData, counts: np.ndarray) -> AnnData:
    changed = atlas.copy()
    changed.X = csr_matrix(counts.astype(np.float32))
    return changed


@pytest.mark.parametrize("form", FORMATS)
def test_another_store_is_told_apart(form: str, tmp_path: Path) -> None:
    atlas = make_atlas(n_cells=120)
    counts = atlas.X.toarray()
    renamed = atlas.copy()
    renamed.var_names = [*atlas.var_names[:48], atlas.var_names[49], atlas.var_names[48]]
    last = counts.copy()
    last[-1, 0] += 1
    others = {
        "fewer cells": atlas[:-1].copy(),
        "other counts at the same places": with_counts(atlas, counts * 2),
        "one count of the last cell": with_counts(atlas, last),
        "cells in another order": with_counts(atlas, counts[::-1]),
        "genes in another order": renamed,
    }
    given = identity(atlas, form, tmp_path / "given")
    for what, other in others.items():
        assert identity(other, form, tmp_path / what) != given, what


@pytest.mark.parametrize("form", FORMATS)
def test_a_copy_elsewhere_is_the_same(form: str, tmp_path: Path) -> None:
    if form == "memory":
        assert open_store(make_atlas()).identity() == open_store(make_atlas().copy()).identity()
        return
    (tmp_path / "given").mkdir()
    path = write_as(make_atlas(n_cells=120), form, tmp_path / "given")
    assert isinstance(path, Path)
    given = open_store(path).identity()
    assert json.loads(json.dumps(given)) == given
    moved = tmp_path / f"moved{path.suffix}"
    (shutil.copytree if path.is_dir() else shutil.copy)(path, moved)
    shutil.rmtree(tmp_path / "given")
    assert open_store(moved).identity() == given


def test_another_compression_is_the_same_store(tmp_path: Path) -> None:
    atlas = make_atlas(n_cells=120)
    atlas.write_h5ad(tmp_path / "plain.h5ad")
    atlas.write_h5ad(tmp_path / "gzip.h5ad", compression="gzip")
    plain, gzip = (open_store(tmp_path / f"{name}.h5ad").identity() for name in ("plain", "gzip"))
    assert plain == gzip


def test_the_sample_has_both_ends_and_a_bounded_size() -> None:
    assert sampled(0).tolist() == []
    assert sampled(1).tolist() == [0]
    assert sampled(3).tolist() == [0, 1, 2]
    many = sampled(50_000_000)
    assert (many[0], many[-1], len(many)) == (0, 49_999_999, SAMPLED_CELLS)


@pytest.mark.parametrize("form", READ_IN_PLACE)
def test_a_store_rewritten_with_other_counts_of_the_same_shape_is_told(form: str, tmp_path: Path) -> None:
    atlas = make_atlas(n_cells=60)
    for folder in ("given", "other"):
        (tmp_path / folder).mkdir()
    source = write_as(atlas, form, tmp_path / "given")
    other = write_as(with_counts(atlas, atlas.X.toarray() * 3), form, tmp_path / "other")
    assert isinstance(source, Path)
    assert isinstance(other, Path)
    out = prepare(source, tmp_path / "out", min_cells_per_gene=0, progress=False).path
    shutil.rmtree(source)
    other.rename(source)
    with pytest.raises(ValueError, match=r"has changed: .*'sample': .*put it back, or prepare again"):
        Prepared.open(out)
    with pytest.raises(FileExistsError, match=r"has changed: .*'sample': .*Choose another directory"):
        prepare(source, out, min_cells_per_gene=0, progress=False)


def test_a_copied_source_that_has_changed_is_told_when_it_is_prepared_again(tmp_path: Path) -> None:
    atlas = make_atlas(n_cells=60)
    source = write_as(atlas, "h5ad", tmp_path)
    prepare(source, tmp_path / "out", min_cells_per_gene=0, progress=False)
    write_as(with_counts(atlas, atlas.X.toarray() * 3), "h5ad", tmp_path)
    with pytest.raises(FileExistsError, match=r"atlas.h5ad of .*out has changed: it was \{'sample'"):
        prepare(source, tmp_path / "out", min_cells_per_gene=0, progress=False)


def test_counts_of_a_copy_that_were_exchanged_are_told(tmp_path: Path) -> None:
    atlas = make_atlas(n_cells=60)
    others = with_counts(atlas, atlas.X.toarray() * 3)
    one, other = (
        prepare(cells, tmp_path / name, min_cells_per_gene=0, progress=False).path
        for name, cells in (("one", atlas), ("other", others))
    )
    shutil.rmtree(one / "cells.zarr")
    (other / "cells.zarr").rename(one / "cells.zarr")
    with pytest.raises(ValueError, match=r"cells.zarr has changed: .*'sample'.*Prepare the atlas again"):
        Prepared.open(one)


@pytest.mark.parametrize("form", ["zarr_v3", "h5ad"])
def test_a_manifest_from_before_there_was_a_sample_says_what_to_do(form: str, tmp_path: Path) -> None:
    source = write_as(make_atlas(n_cells=60), form, tmp_path)
    out = prepare(source, tmp_path / "out", min_cells_per_gene=0, progress=False).path
    manifest = json.loads((out / "prepared.json").read_text())
    for described in (manifest["sources"][0]["identity"], manifest["modalities"][0].get("copy", {})):
        for newer in ("sample", "names", "row_pointers"):
            described.pop(newer, None)
    (out / "prepared.json").write_text(json.dumps(manifest))
    remedy = (
        r"recorded by another version of this program \(cells, features, stored_values\).*Prepare .* again"
    )
    with pytest.raises(ValueError, match=remedy):
        Prepared.open(out)
    with pytest.raises(FileExistsError, match=remedy):
        prepare(source, out, min_cells_per_gene=0, progress=False)


def test_differences_are_named_and_nothing_else() -> None:
    was = {"cells": 3, "sample": "a"}
    assert difference(was, {"cells": 4, "sample": "a"}) == "it was {'cells': 3} and is {'cells': 4}"
    shards = {f"s{i}": was for i in range(9)}
    said = difference({"shards": shards}, {"shards": {"s0": was, "t": was}})
    assert said == "of its shards there are missing s1, s2, s3, s4, s5 ...; new t"
    require_identity(was, dict(was), what="it", remedy="none")


def test_labels_are_not_looked_at(tmp_path: Path) -> None:
    """Stated in stores/identity.py: labels are kept in the prepared atlas."""
    source = write_as(make_atlas(n_cells=60), "zarr_v3", tmp_path)
    out = prepare(source, tmp_path / "out", labels=["donor"], min_cells_per_gene=0, progress=False).path
    before = Prepared.open(out).labels(np.arange(60))
    relabelled = anndata.read_zarr(source)
    relabelled.obs["donor"] = "somebody else"
    shutil.rmtree(source)
    write_as(relabelled, "zarr_v3", tmp_path)
    np.testing.assert_array_equal(Prepared.open(out).labels(np.arange(60)), before)
