"""What tells a store from another that has taken its place: cheap to ask, the same after a move or a copy.

Reading all counts would take minutes, so a bounded part of them is looked at: the names of all features, how
many values every cell has (where the format says so: CSR does), and all values of `SAMPLED_CELLS` cells: the
first, the last and some in between, at even distances. What is hashed is what was stored, not its bytes on
the disk: another codec, chunk size or file system makes no difference.

Seen: other genes or another order of genes, cells added, removed or put in another order, normalised or
recounted values. Not seen: a value changed in a cell that is not in the sample and has as many values as
before, and annotations (labels are kept in the prepared atlas, and are not read again).
"""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray

SAMPLED_CELLS = 8
SAMPLED_BYTES = 65_536  # at each of `SAMPLED_CELLS` places of a text file
SHARDS = "shards"


class Reads(Protocol):
    """What has cells that can be read by row; see `CellStore.read`."""

    n_cells: int

    def read(self, rows: IntArray) -> csr_matrix: ...


def sampled(n: int) -> IntArray:
    """Up to `SAMPLED_CELLS` places of ``n``, ascending: the first, the last, and some in between."""
    return np.unique(np.linspace(0, n - 1, SAMPLED_CELLS).astype(np.int64)) if n else np.zeros(0, np.int64)


def digest_of_cells(store: Reads) -> str:
    """sha256 of the counts of the sampled cells. Side by side, since each may be a request to a far store."""
    rows = sampled(store.n_cells)
    with ThreadPoolExecutor(SAMPLED_CELLS) as threads:
        cells = list(threads.map(lambda row: store.read(np.array([row])), rows.tolist()))
    return digest_of_counts(cells)


def digest_of_counts(cells: Iterable[csr_matrix]) -> str:
    """sha256 of rows of counts, in whatever dtype."""
    whole = hashlib.sha256()
    for counts in cells:
        for part in (np.diff(counts.indptr).astype("<i8"), counts.indices.astype("<i8")):
            whole.update(part.tobytes())
        whole.update(counts.data.astype("<f8").tobytes())
    return whole.hexdigest()


def digest_of_names(names: Iterable[str]) -> str:
    """sha256 of names in their order."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def digest_of_numbers(numbers: NDArray[Any]) -> str:
    """sha256 of whole numbers."""
    return hashlib.sha256(np.ascontiguousarray(numbers, dtype="<i8").data).hexdigest()


def digest_of_file(path: Path) -> str:
    """sha256 of the size of a file and of `SAMPLED_BYTES` at each of a few places, both ends among them."""
    size = path.stat().st_size
    whole = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for begin in sampled(max(size - SAMPLED_BYTES, 0) + 1).tolist():
            file.seek(begin)
            whole.update(file.read(SAMPLED_BYTES))
    return whole.hexdigest()


def require_identity(was: dict[str, Any], now: dict[str, Any], *, what: str, remedy: str) -> None:
    """Raise ValueError unless ``what`` is what it was: names the shards, or the entries, that differ."""
    if was == now:
        return
    if was.keys() != now.keys():
        raise ValueError(
            f"{what} was recorded by another version of this program ({', '.join(was)}), which cannot be "
            f"compared with what is known of it today ({', '.join(now)}). Prepare the atlas again, in "
            f"another directory, or remove this one first."
        )
    raise ValueError(f"{what} has changed: {difference(was, now)}. {remedy}.")


def difference(was: dict[str, Any], now: dict[str, Any]) -> str:
    """The entries of two identities that differ, in words; of a collection the first shard that does."""
    if SHARDS in was and SHARDS in now:
        return _difference_of_shards(was[SHARDS], now[SHARDS])
    differing = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    one, other = ({key: side.get(key) for key in differing} for side in (was, now))
    return f"it was {one} and is {other}"


def _difference_of_shards(was: dict[str, Any], now: dict[str, Any]) -> str:
    missing, extra = ([name for name in a if name not in b] for a, b in ((was, now), (now, was)))
    changed = [name for name in was if name in now and was[name] != now[name]]
    parts = [
        f"{word} {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
        for word, names in (("missing", missing), ("new", extra), ("changed", changed))
        if names
    ]
    details = f" ({changed[0]}: {difference(was[changed[0]], now[changed[0]])})" if changed else ""
    return (
        f"of its shards there are {'; '.join(parts)}{details}" if parts else "its shards have another order"
    )
