"""A parcel is a run in little: what another machine finds in it, it can take up."""

from pathlib import Path

import pyarrow.fs
import pytest

from jobs.config import ConfigError
from jobs.training.parcel import pack, unpack
from jobs.training.ray_worker import move
from jobs.training.run_directory import RunDirectory
from jobs.training.workers import Workers
from tests.tree_bytes import tree_bytes


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """The autoencoder is finished, the flow has two checkpoints."""
    run = RunDirectory(tmp_path / "run")
    write(run.result("autoencoder"), "weights")
    write(run.latents / "whitening-abc.safetensors", "whitening")
    write(run.latents / "train.zarr" / "c" / "0", "latents are made again")
    for n in (10, 20):
        write(run.checkpoints("flow") / f"{n:015d}" / "state.json", f"{n}")
    write(run.metrics, "kept by the driver")
    return run


def test_a_parcel_holds_what_a_resume_needs_and_no_more(run: RunDirectory, tmp_path: Path) -> None:
    parcel = pack(run, tmp_path / "parcel", run.checkpoints("flow") / f"{20:015d}")
    packed = {str(path.relative_to(parcel)) for path in parcel.rglob("*") if path.is_file()}
    newest = "flow/checkpoints/000000000000020/state.json"
    assert packed == {"autoencoder/result.safetensors", "latents/whitening-abc.safetensors", newest}
    assert (parcel / newest).stat().st_nlink == 2, "linked, not copied"


def test_where_links_are_refused_a_parcel_is_a_copy(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked = pack(run, tmp_path / "linked", run.checkpoints("flow") / f"{20:015d}")

    def refuse(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr("jobs.training.parcel.os.link", refuse)
    copied = pack(run, tmp_path / "copied", run.checkpoints("flow") / f"{20:015d}")
    assert tree_bytes(copied) == tree_bytes(linked)
    assert {path.stat().st_nlink for path in copied.rglob("*") if path.is_file()} == {1}


def test_unpacked_elsewhere_it_is_the_run(run: RunDirectory, tmp_path: Path) -> None:
    write(run.result("flow"), "more weights")
    write(run.model / "config.json", "{}")
    parcel = pack(run, tmp_path / "parcel")
    other = RunDirectory(tmp_path / "other")
    unpack(parcel, other)
    unpack(parcel, other)
    assert tree_bytes(other.path) == tree_bytes(parcel)
    assert other.trained(["autoencoder", "flow"])


@pytest.mark.parametrize("local", [True, False])
def test_a_parcel_moves_into_any_storage(run: RunDirectory, tmp_path: Path, local: bool) -> None:
    parcel = pack(run, tmp_path / "parcel")
    before = tree_bytes(parcel)
    (tmp_path / "storage").mkdir()
    files, target = pyarrow.fs.LocalFileSystem(), str(tmp_path / "storage" / "a" / "b")
    if not local:
        files, target = pyarrow.fs.SubTreeFileSystem(str(tmp_path / "storage"), files), "a/b"
    move(parcel, files, target, local=local)
    assert tree_bytes(tmp_path / "storage" / "a" / "b") == before
    assert not parcel.exists()


def test_workers_are_a_number_or_a_range() -> None:
    assert [Workers.of(told) for told in (0, 2, "3", "1:4")] == [
        Workers(0, 0),
        Workers(2, 2),
        Workers(3, 3),
        Workers(1, 4),
    ]
    assert Workers.of("1:4").elastic
    assert not Workers.of(2).elastic


@pytest.mark.parametrize("told", [-1, "4:1", "0:2", "two", "1:2:3", ""])
def test_what_is_no_number_of_workers_is_refused(told: str | int) -> None:
    with pytest.raises(ConfigError, match="workers must be 0"):
        Workers.of(told)
