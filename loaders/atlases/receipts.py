"""Receipts of the tasks of an atlas in the making: that one is done, and which files it wrote.

A receipt is written when all of its files are safely on the disk, so that a task that was killed, or whose
files have vanished or were cut off since, is done again.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cfgen_scale.files import write_json

from .checksums import Described, Manifest


@dataclass(frozen=True)
class Receipts:
    """Those in ``folder``, of files below ``building``."""

    folder: Path
    building: Path

    def write(self, task: str, files: Mapping[str, Described]) -> None:
        """Write down that a task is done. Another process may write the same: the last one stands."""
        self.folder.mkdir(exist_ok=True)
        write_json(self._path(task), files_as_json(files))

    def read(self, task: str) -> dict[str, Described] | None:
        """The files of a task; None unless it is done and they are there."""
        try:
            files = files_of_json(json.loads(self._path(task).read_text()))
        except FileNotFoundError:
            return None
        return None if Manifest(files, ()).lost(self.building) else files

    def forget(self) -> None:
        """Have all tasks done again."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, task: str) -> Path:
        return self.folder / f"{task}.json"


def files_as_json(files: Mapping[str, Described]) -> dict[str, Any]:
    """What `files_of_json` reads."""
    return {name: asdict(described) for name, described in files.items()}


def files_of_json(document: Mapping[str, Any]) -> dict[str, Described]:
    """The inverse of `files_as_json`."""
    return {name: Described(**described) for name, described in document.items()}
