"""Locks between processes: the system's (flock), which end with the process that holds them, however it
ends."""

import errno
import fcntl
import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def sole_writer(out: Path, lock: Path) -> Iterator[None]:
    """Be the only process that writes ``out``, by holding the file ``lock``, which is there meanwhile, and
    after a process was killed.

    Raises RuntimeError naming the process that is writing ``out``, PermissionError where ``lock`` cannot be
    made. Warns where the file system has no locks.
    """
    with _locked(lock, out) as file:
        file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
        file.flush()
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


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
