"""A directory that is there wholly or not at all, written by one process at a time.

``OUT.partial`` beside it is where it is written, ``OUT.partial.lock`` what keeps a second process out. The
lock is the system's (flock): it ends with the process that holds it, however that ends.
"""

import errno
import fcntl
import json
import os
import shutil
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


OF_A_REPACK = "codec zstd takes a sixth; a repack takes as much again while it runs"


@contextmanager
def written_aside(out: Path, *, to_make_room: str = OF_A_REPACK) -> Iterator[Path]:
    """A directory beside ``out`` that takes its name if all goes well, and is removed if not.

    What a run that was killed left there is removed first. Raises RuntimeError naming the process that is
    writing ``out``, FileExistsError if one has just finished, PermissionError, or OSError for a full disk,
    which says ``to_make_room``.
    """
    partial = out.with_name(f"{out.name}.partial")
    with _held(out):
        if out.exists() and os.listdir(out):
            raise FileExistsError(
                f"{out} was written by another process just now. The same command again tells whether it is "
                f"what you asked for."
            )
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            yield partial
            os.replace(partial, out)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise OSError(
                    error.errno,
                    f"{os.strerror(error.errno)}: {partial} could not be written and was removed. Make room "
                    f"({to_make_room}) and run the same again",
                ) from error
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Hold the lock of ``out``; its file is there while it is held, and after a process was killed."""
    path = out.with_name(f"{out.name}.partial.lock")
    with _locked(path, out) as file:
        file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path, out: Path) -> IO[str]:
    """The file at ``path``, made if need be, locked until it is closed."""
    while True:
        file = _opened(path, out)
        try:
            _lock(file, path, out)
            # Whoever held it before removed it when done: another process may have made a new one.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _opened(path: Path, out: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")
    except PermissionError as error:
        raise PermissionError(
            f"{out} cannot be made: {path.parent} may not be written to. Choose another directory."
        ) from error


def _lock(file: IO[str], path: Path, out: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RuntimeError(
            f"another process ({_holder(file)}) is writing {out}. Wait for it, end it, or choose another "
            f"directory."
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warnings.warn(
            f"the file system of {path.parent} has no locks (flock: {error.strerror}): see to it yourself "
            f"that no second process writes {out} meanwhile. They would destroy each other's work.",
            RuntimeWarning,
            stacklevel=2,
        )


def _holder(file: IO[str]) -> str:
    """Who holds the lock, as it wrote itself down; it may not have come to that yet."""
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return f"pid {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError):
        return "which has just begun"
