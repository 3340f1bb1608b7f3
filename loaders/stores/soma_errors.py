"""What TileDB says when it cannot read, with the array, what it may mean and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def readable(uri: str) -> Iterator[None]:
    """Errors of TileDB raised inside become an OSError that names ``uri``."""
    import tiledbsoma

    try:
        yield
    except tiledbsoma.SOMAError as error:
        raise OSError(
            f"{uri} cannot be read: {first_line(error)} If no permission is missing, a file of it is damaged "
            f"or was not copied: copy the experiment again."
        ) from error


def first_line(error: Exception) -> str:
    """What TileDB says, without the traceback that it appends."""
    lines = [line.strip() for line in str(error).partition("\nAt:")[0].splitlines() if line.strip()]
    said = " ".join(lines[:2]) if lines and lines[0].startswith("Error opening") else lines[0]
    return said.removeprefix("SOMAError: ").rstrip(".") + "."
