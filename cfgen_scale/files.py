"""Nothing half-written looks complete: files and directories are written aside and renamed last."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

ASIDE = ".aside"  # how temporary names end


@contextmanager
def write_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write; on leaving without an error it is flushed to the disk and takes the name ``path``.

    Processes on several machines may write the same one at once: the last takes the name.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}{ASIDE}")
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, document: Any) -> None:
    """Write ``document`` to ``path`` atomically: see `write_file`."""
    with write_file(path) as file:
        file.write(json.dumps(document, indent=1, sort_keys=True).encode())


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``. Raises ValueError naming the file if it is not one."""
    try:
        document = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} does not hold a JSON object.")
    return document


@contextmanager
def write_directory(path: Path) -> Iterator[Path]:
    """A new directory to fill; on leaving without an error it takes the place of ``path``.

    An error, or a kill, leaves ``path`` as it was. A reader sees the old directory or the new one; for
    the instant between two renames, none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}{ASIDE}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    replaced = path.with_name(f".{path.name}.{os.getpid()}.replaced")
    if path.exists():
        os.replace(path, replaced)
    os.replace(aside, path)
    shutil.rmtree(replaced, ignore_errors=True)


def flush(path: Path) -> None:
    """Have the system write a file, or the names in a directory, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(*paths: Path) -> str:
    """sha256 over the contents of the files in order, as hex."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
