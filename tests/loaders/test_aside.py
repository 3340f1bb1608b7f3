"""A directory written by one process at a time: a second one is told, a dead one is in nobody's way."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loaders.aside import written_aside
from loaders.preparation.prepare import prepare
from tests.loaders.conftest import make_atlas, write_as
from tests.tree_bytes import tree_bytes

ROOT = Path(__file__).parents[2]

# A prepare that says when it is writing, then waits to be told to go on.
SLOW = """
import sys
from loaders.preparation import prepare as module
source, out = sys.argv[1:]
write = module.write_prepared
def waiting(*args, **options):
    print("writing", flush=True)
    sys.stdin.readline()
    write(*args, **options)
module.write_prepared = waiting
module.prepare(source, out, min_cells_per_gene=0, progress=False)
"""


@contextmanager
def preparing(source: Path, out: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is in the middle of `prepare`, and is gone at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(source), str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_and_the_first_completes(tmp_path: Path) -> None:
    source, out = write_as(make_atlas(n_cells=60), "h5ad", tmp_path), tmp_path / "out"
    with preparing(source, out) as first:
        holder = rf"another process \(pid {first.pid} on {socket.gethostname()}\) is writing {out}\. Wait for"
        for _ in range(2):
            with pytest.raises(RuntimeError, match=holder):
                prepare(source, out, min_cells_per_gene=0, progress=False)
        first.communicate("go on\n", timeout=60)
        assert first.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["atlas.h5ad", "out"]
    alone = prepare(source, tmp_path / "alone", min_cells_per_gene=0, progress=False)
    assert tree_bytes(out) == tree_bytes(alone.path)


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path: Path) -> None:
    source, out = write_as(make_atlas(n_cells=60), "h5ad", tmp_path), tmp_path / "out"
    with preparing(source, out) as first:
        first.send_signal(signal.SIGKILL)
    left = ["atlas.h5ad", "out.partial", "out.partial.lock"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    prepare(source, out, min_cells_per_gene=0, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["atlas.h5ad", "out"]


def test_one_that_comes_when_the_other_has_just_finished_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "prepared.json").write_text("theirs")
    with (
        pytest.raises(FileExistsError, match=r"out was written by another process just now"),
        written_aside(out),
    ):
        pytest.fail("must not come to this")
    assert (out / "prepared.json").read_text() == "theirs"


def test_a_lock_file_that_its_holder_removes_meanwhile_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, flock = tmp_path / "out.partial.lock", fcntl.flock

    def late(file: object, how: int) -> None:
        flock(file, how)
        if not lock.with_name("removed").exists():
            lock.rename(lock.with_name("removed"))

    monkeypatch.setattr(fcntl, "flock", late)
    with written_aside(tmp_path / "out") as partial:
        assert f'"pid": {os.getpid()}' in lock.read_text()
        (partial / "whole").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "removed"]


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    with (
        pytest.warns(RuntimeWarning, match=r"has no locks .*see to it yourself that no second process"),
        written_aside(tmp_path / "out") as partial,
    ):
        (partial / "whole").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with written_aside(tmp_path / "out") as partial:
            (partial / "half").touch()
            raise OSError("the cable was pulled")

    with pytest.raises(OSError, match="the cable was pulled"):
        interrupted()
    assert list(tmp_path.iterdir()) == []
