"""A generated atlas as a TileDB-SOMA experiment: the same cells, counts and latents."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiledbsoma

from loaders.atlases import soma_slab_writer, soma_tasks
from loaders.atlases.soma_writer import write_soma
from loaders.stores.opening import open_store
from tests.loaders.generated import (
    PROTEIN,
    RNA,
    TWO_MODALITIES,
    cells_of,
    latents_of,
    provenance_of,
    write_atlas,
)

# More than one slab of 2,048 cells, so that there are several writes.
CHUNKS = [cells_of(n, seed=n, schema=TWO_MODALITIES) for n in (2_000, 1_100, 1_137)]
N_CELLS = 4_237


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_atlas(tmp_path_factory.mktemp("atlas") / "atlas.zarr", CHUNKS, schema=TWO_MODALITIES)


@pytest.fixture(scope="module")
def experiment(atlas: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soma_tasks, "COUNTS_AT_ONCE", 1_000)
        patch.setattr(soma_tasks, "CELLS_AT_ONCE", 2_048)
        return write_soma(atlas, atlas.with_name("atlas.soma"))


def together(modality: int) -> np.ndarray:
    return np.concatenate([chunk.counts[modality].toarray() for chunk in CHUNKS])


@pytest.mark.parametrize(("m", "name"), [(0, "RNA"), (1, "protein")])
def test_our_own_reader_finds_the_same(m: int, name: str, experiment: Path) -> None:
    store = open_store(experiment, measurement=name)
    assert store.features == (RNA, PROTEIN)[m].features
    rows = np.random.default_rng(0).permutation(N_CELLS)[:500]
    np.testing.assert_array_equal(store.read(rows).toarray(), together(m)[rows])
    labels = np.concatenate([chunk.labels[:, 0] for chunk in CHUNKS])
    cell_type = store.obs_column("cell_type")
    assert cell_type.categories.tolist() == ["B", "T"]
    np.testing.assert_array_equal(cell_type.codes, labels)
    assert store.obs_names(0, 2).tolist() == ["cell_0000", "cell_0001"]


@pytest.mark.parametrize(("m", "name"), [(0, "RNA"), (1, "protein")])
def test_tiledbsoma_finds_the_same(m: int, name: str, experiment: Path) -> None:
    with tiledbsoma.Experiment.open(str(experiment)) as opened:
        layer = opened.ms[name].X["counts"]
        assert layer.shape == (N_CELLS, len((RNA, PROTEIN)[m].features))
        assert layer.schema.field("soma_data").type == "uint8"
        found = layer.read().coos(layer.shape).concat().to_scipy().toarray()
        np.testing.assert_array_equal(found, together(m))
        obs = opened.obs.read().concat().to_pandas()
        assert obs["cell_type"].cat.categories.tolist() == ["B", "T"]
        factors = np.concatenate([chunk.log_size_factor[:, m] for chunk in CHUNKS])
        np.testing.assert_array_equal(obs[f"log_size_factor:{(RNA, PROTEIN)[m].name}"], factors)
        assert json.loads(opened.metadata["cfgen_scale.plan"]) == provenance_of(CHUNKS)["plan"]


def test_latents_come_along(experiment: Path) -> None:
    with tiledbsoma.Experiment.open(str(experiment)) as opened:
        found = opened.ms["RNA"].obsm["X_cfgen"].read().to_numpy()
    np.testing.assert_array_equal(found, np.concatenate([chunk.latent for chunk in CHUNKS]))


def test_a_slab_is_a_fragment(experiment: Path) -> None:
    fragments = {
        path: len(list((experiment / path / "__fragments").iterdir()))
        for path in ("obs", "ms/RNA/X/counts", "ms/protein/X/counts", "ms/RNA/obsm/X_cfgen")
    }
    assert set(fragments.values()) == {3}  # 4,237 cells in slabs of 2,048


def test_a_full_disk_is_said_and_what_was_written_is_kept(
    atlas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(soma_slab_writer, "_write_latents", full)
        with pytest.raises(OSError, match=r"No space left .*atlas\.soma\.partial cannot grow"):
            write_soma(atlas, tmp_path / "atlas.soma")
    assert [path.name for path in tmp_path.iterdir()] == ["atlas.soma.partial"]
    write_soma(atlas, tmp_path / "atlas.soma")
    assert [path.name for path in tmp_path.iterdir()] == ["atlas.soma"]


def test_what_tiledb_says_is_one_line(atlas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise tiledbsoma.SOMAError("Cannot write: No space left on device\nAt:\n  somewhere")

    monkeypatch.setattr(soma_slab_writer, "_write_latents", fails)
    with pytest.raises(
        OSError, match=r"partial cannot be written: .*No space left on device\. What was written is kept"
    ):
        write_soma(atlas, tmp_path / "atlas.soma")


def test_what_cannot_be_written_is_refused(atlas: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="there exists"):
        write_soma(atlas, tmp_path / "there")
    latents = write_atlas(tmp_path / "latents.zarr", [latents_of(CHUNKS[1])], schema=TWO_MODALITIES)
    with pytest.raises(ValueError, match=r"holds latents and no counts\. Decode it first"):
        write_soma(latents, tmp_path / "out.soma")
