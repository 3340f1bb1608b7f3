"""The bytes of a directory, to compare two of them."""

from pathlib import Path


def tree_bytes(directory: Path) -> dict[str, bytes]:
    """Every file below ``directory``: its path in it -> its content."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    assert files
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}
