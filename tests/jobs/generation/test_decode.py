"""Latents stored and decoded later are the atlas that would have been written at once."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest

from jobs.generation.chunk_workers import AtlasWorker, Receipt
from jobs.generation.generate import decode_atlas, generate_atlas
from jobs.generation.plan import Chunk
from jobs.generation.request import Group, Request, SizeFactor
from tests.tiny_model import save_tiny_model
from tests.tree_bytes import tree_bytes

REQUEST = Request(
    (
        Group(45, untold=("donor",), guidance={"cell_type": 2.0}),
        Group(30, {"cell_type": "B"}, size_factors={"": SizeFactor(5.0, 0.2)}),
    )
)


def generate(model_path: Path, out: Path, **options: Any) -> Path:
    return generate_atlas(model_path, out, REQUEST, seed=3, chunk_cells=20, progress=False, **options)


@pytest.fixture(scope="module")
def latents(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(model_path, tmp_path_factory.mktemp("latents") / "latents.zarr", content="latents")


@pytest.fixture(scope="module")
def direct(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(model_path, tmp_path_factory.mktemp("direct") / "atlas.zarr")


def test_latents_alone_are_the_atlas_without_counts(latents: Path, direct: Path) -> None:
    one, other = anndata.read_zarr(latents), anndata.read_zarr(direct)
    assert one.X is None
    assert one.obs.equals(other.obs)
    assert one.var.index.equals(other.var.index)
    assert np.array_equal(one.obsm["X_cfgen"], other.obsm["X_cfgen"])


def test_decoded_latents_are_the_atlas_written_at_once(
    latents: Path, direct: Path, model_path: Path, tmp_path: Path
) -> None:
    decoded = decode_atlas(model_path, latents, tmp_path / "atlas.zarr", progress=False)
    assert tree_bytes(decoded) == tree_bytes(direct)


@pytest.mark.ray
def test_ray_workers_decode_the_same(
    latents: Path, direct: Path, model_path: Path, tmp_path: Path, ray_cluster: None
) -> None:
    decoded = decode_atlas(model_path, latents, tmp_path / "atlas.zarr", workers=2, progress=False)
    assert tree_bytes(decoded) == tree_bytes(direct)


def test_decoding_goes_on_where_it_was_stopped(
    latents: Path, direct: Path, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun by decoding and finished by generating: it is one and the same plan."""
    out, write = tmp_path / "atlas.zarr", AtlasWorker.write

    def failing(worker: AtlasWorker, chunk: Chunk) -> Receipt:
        if chunk.index == 2:
            raise OSError(28, "No space left on device")
        return write(worker, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(AtlasWorker, "write", failing)
        with pytest.raises(OSError, match="No space left"):
            decode_atlas(model_path, latents, out, progress=False)
    assert not out.exists()
    assert tree_bytes(generate(model_path, out)) == tree_bytes(direct)


def test_what_cannot_be_decoded_is_refused(
    latents: Path, direct: Path, model_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "atlas.zarr"
    with pytest.raises(ValueError, match="has its counts already"):
        decode_atlas(model_path, direct, out)
    other = save_tiny_model(tmp_path / "model", weights_seed=1)
    with pytest.raises(ValueError, match="Decode it with its own model"):
        decode_atlas(other, latents, out)
    with pytest.raises((FileNotFoundError, FileExistsError), match="nowhere"):
        decode_atlas(model_path, tmp_path / "nowhere.zarr", out)
    with pytest.raises(FileExistsError, match=r"another content \(latents there, counts asked for\)"):
        decode_atlas(model_path, latents, latents)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
