"""A finished atlas that lost files: the same call makes them again, from the chunks that they are made of."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.generation import shaping, write_atlas
from jobs.generation.chunk_workers import AtlasWorker, Receipt
from jobs.generation.generate import decode_atlas, generate_atlas
from jobs.generation.plan import Chunk
from jobs.generation.request import Group, Request
from loaders import layout
from loaders.atlases.check_atlas import check_atlas
from loaders.atlases.writer import PartialAtlas
from tests.jobs.generation.test_generate import stop_after
from tests.tree_bytes import tree_bytes

REQUEST = Request((Group(120),))
ALL = [0, 1, 2, 3, 4, 5]  # of 20 cells


@pytest.fixture(autouse=True, scope="module")
def _small_shards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "CHUNK", 64)
        patch.setattr(layout, "SHARD", 512)
        patch.setattr(layout, "CHUNK_OF_CELLS", 16)
        patch.setattr(layout, "SHARD_OF_CELLS", 32)
        yield


def generate(model_path: Path, out: Path, **options: Any) -> Path:
    return generate_atlas(model_path, out, REQUEST, chunk_cells=20, progress=False, **options)


@pytest.fixture
def atlas(model_path: Path, tmp_path: Path) -> Path:
    return generate(model_path, tmp_path / "atlas.zarr")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, atlas: Path) -> list[int]:
    """Fills with the chunks that are drawn once the atlas is there."""
    chunks: list[int] = []
    write = AtlasWorker.write

    def noted(worker: AtlasWorker, chunk: Chunk) -> Receipt:
        chunks.append(chunk.index)
        return write(worker, chunk)

    monkeypatch.setattr(AtlasWorker, "write", noted)
    return chunks


@pytest.mark.parametrize("how", ["deleted", "cut off"])
@pytest.mark.parametrize(
    ("lost", "chunks"),
    [
        # Cells 64 to 96 are in chunks 3 (60 to 80) and 4 (80 to 100).
        (["obs/cell_type/codes/c/2"], [3, 4]),
        (["obsm/X_cfgen/c/0/0"], [0, 1]),
        (["zarr.json"], []),
        (["X/indices/zarr.json", "obs/cell_type/categories/zarr.json"], []),
    ],
)
def test_what_was_lost_is_made_again(
    atlas: Path, model_path: Path, drawn: list[int], lost: list[str], chunks: list[int], how: str
) -> None:
    whole = tree_bytes(atlas)
    for file in lost:
        path = atlas / file
        path.unlink() if how == "deleted" else path.write_bytes(path.read_bytes()[:-1])
    generate(model_path, atlas)
    assert drawn == chunks
    assert tree_bytes(atlas) == whole
    assert [path.name for path in atlas.parent.iterdir()] == ["atlas.zarr"]


def test_only_the_chunks_of_a_lost_shard_of_counts_are_drawn(
    atlas: Path, model_path: Path, drawn: list[int]
) -> None:
    whole = tree_bytes(atlas)
    names = [line for line in whole["SHA256SUMS"].decode().splitlines() if line.startswith("# chunk ")]
    ends = [0]
    for name in names:
        ends.append(ends[-1] + int(name.split("-")[3].split(".")[0]))
    overlapping = [i for i in ALL if ends[i] < 1024 and ends[i + 1] > 512]
    assert overlapping != ALL
    (atlas / "X/data/c/1").unlink()
    generate(model_path, atlas)
    assert drawn == overlapping
    assert tree_bytes(atlas) == whole


def test_stopped_while_it_is_restored_and_run_again(
    atlas: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tree_bytes(atlas)
    for file in ("obs/cell_type/codes/c/2", "zarr.json", "X/data/c/0"):
        (atlas / file).unlink()
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(OSError, match="No space left"):
            generate(model_path, atlas)
    assert not atlas.exists()
    generate(model_path, atlas)
    assert tree_bytes(atlas) == whole
    assert check_atlas(atlas).ok


def test_latents_and_what_is_decoded_of_them_are_restored(model_path: Path, tmp_path: Path) -> None:
    latents = generate(model_path, tmp_path / "latents.zarr", content="latents")
    decoded = decode_atlas(model_path, latents, tmp_path / "atlas.zarr", progress=False)
    before = [tree_bytes(path) for path in (latents, decoded)]
    for path in (latents, decoded):
        (path / "obsm/X_cfgen/c/1/0").unlink()
    generate(model_path, latents, content="latents")
    decode_atlas(model_path, latents, decoded, progress=False)
    assert [tree_bytes(path) for path in (latents, decoded)] == before


@pytest.mark.parametrize("readable", [True, False])
def test_another_request_does_not_restore_it(atlas: Path, model_path: Path, readable: bool) -> None:
    (atlas / "X/data/c/0").unlink()
    if not readable:
        (atlas / "zarr.json").unlink()
    before = tree_bytes(atlas)
    with pytest.raises(FileExistsError, match="another seed" if readable else "is not what would be written"):
        generate(model_path, atlas, seed=1)
    assert tree_bytes(atlas) == before
    assert [path.name for path in atlas.parent.iterdir()] == ["atlas.zarr"]


def test_another_machine_or_version_does_not_restore_it(
    atlas: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (atlas / "X/data/c/0").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(AtlasWorker, "machine", lambda _: {**shaping.machine_here("cpu"), "blas": "another"})
        with pytest.raises(FileExistsError, match="another blas"):
            generate(model_path, atlas)
    with monkeypatch.context() as patch:
        patch.setattr(write_atlas, "versions", lambda: {**shaping.versions(), "torchdyn": "9"})
        with pytest.raises(FileExistsError, match="another torchdyn"):
            generate(model_path, atlas)
    generate(model_path, atlas)
    assert not PartialAtlas.beside(atlas).path.exists()


def test_files_of_others_are_not_removed_with_it(atlas: Path, model_path: Path) -> None:
    (atlas / "X/data/c/0").unlink()
    (atlas / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds notes\.txt, which generation did not write"):
        generate(model_path, atlas)
    assert (atlas / "notes.txt").read_text() == "mine"


def test_an_atlas_without_its_manifest_is_refused(atlas: Path, model_path: Path) -> None:
    (atlas / "SHA256SUMS").unlink()
    with pytest.raises(FileExistsError, match="is an atlas without its manifest SHA256SUMS"):
        generate(model_path, atlas)
    assert (atlas / "zarr.json").exists()
