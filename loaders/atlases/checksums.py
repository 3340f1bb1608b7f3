"""The manifest of a generated atlas: a sha256 of every file, in the form that ``sha256sum --check`` reads.

It is the one file of an atlas that is not Zarr's. Zarr finds what it needs in the consolidated metadata; who
lists the root without it is warned of an object that is not recognised.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cfgen_scale.files import flush

SUMS_FILE = "SHA256SUMS"


def digest_on_disk(path: Path) -> str:
    """sha256 of a file, hex, once it is safely on the disk."""
    flush(path)
    return digest(path)


def digest(path: Path) -> str:
    """sha256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(directory: Path) -> Iterator[str]:
    """Every file below a directory, relative to it, with slashes."""
    for folder, _, names in os.walk(directory):
        for name in names:
            yield (Path(folder) / name).relative_to(directory).as_posix()


def digests_of(directory: Path, files: Iterable[str]) -> dict[str, str]:
    """Of each of ``files`` below a directory."""
    return {file: digest_on_disk(directory / file) for file in files}


def sums_text(digests: Mapping[str, str]) -> bytes:
    """The manifest, one line a file in the order of their names."""
    return "".join(f"{digests[file]}  {file}\n" for file in sorted(digests)).encode()


def read_sums(directory: Path) -> dict[str, str]:
    """The manifest of an atlas: file -> sha256. Raises FileNotFoundError; ValueError for another text."""
    digests = {}
    for line in (directory / SUMS_FILE).read_text().splitlines():
        found, _, file = line.partition("  ")
        if len(found) != 64 or not file:
            raise ValueError(f"{directory / SUMS_FILE} is damaged: {line[:80]!r} is no line of a manifest.")
        digests[file] = found
    return digests
