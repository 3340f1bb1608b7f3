"""The manifest of a generated atlas: a sha256 of every file, in the form that ``sha256sum --check`` reads.

Comments in it, which that command passes over, tell the size of every file and the chunks that the atlas was
made of: enough to see at a glance what was lost, and to make it again.

It is the one file of an atlas that is not Zarr's. Zarr finds what it needs in the consolidated metadata; who
lists the root without it is warned of an object that is not recognised.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cfgen_scale.files import flush

SUMS_FILE = "SHA256SUMS"
CHUNK, BYTES = "# chunk ", "# bytes "


@dataclass(frozen=True)
class Described:
    """A file of an atlas: how long it is, and its sha256, hex."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The files of an atlas, relative to it, and the names of its chunks (`ChunkSize.name`) in order."""

    files: Mapping[str, Described]
    chunks: Sequence[str]

    def encode(self) -> bytes:
        """The text of it, files in the order of their names."""
        lines = [f"{CHUNK}{name}\n" for name in self.chunks]
        for file, described in sorted(self.files.items()):
            lines += [f"{BYTES}{described.bytes}\n", f"{described.sha256}  {file}\n"]
        return "".join(lines).encode()

    def lost(self, directory: Path) -> list[str]:
        """The files that are not in ``directory``, or are of another length there."""
        return [file for file, of in self.files.items() if not _has_length(directory / file, of.bytes)]


def read_manifest(path: Path) -> Manifest:
    """The manifest in the file ``path``. Raises FileNotFoundError; ValueError for another text."""
    files: dict[str, Described] = {}
    chunks, size = [], ""
    for line in path.read_text().splitlines():
        if line.startswith(CHUNK):
            chunks.append(line.removeprefix(CHUNK))
        elif line.startswith(BYTES):
            size = line.removeprefix(BYTES)
        else:
            found, _, file = line.partition("  ")
            if len(found) != 64 or not file or not size.isdecimal():
                raise ValueError(f"{path} is damaged: {line[:80]!r} is no line of a manifest.")
            files[file], size = Described(int(size), found), ""
    return Manifest(files, chunks)


def describe(directory: Path, file: str) -> Described:
    """A file below a directory, once it is safely on the disk."""
    path = directory / file
    flush(path)
    return Described(path.stat().st_size, digest(path))


def digest(path: Path) -> str:
    """sha256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(directory: Path) -> Iterator[str]:
    """Every file below a directory, relative to it, with slashes."""
    for folder, _, names in os.walk(directory):
        for name in names:
            yield (Path(folder) / name).relative_to(directory).as_posix()


def _has_length(path: Path, length: int) -> bool:
    try:
        return path.stat().st_size == length
    except (FileNotFoundError, NotADirectoryError):
        return False
