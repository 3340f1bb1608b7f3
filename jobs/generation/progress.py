"""What the user is told while an atlas is made."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .chunk_workers import Receipt


def say(text: str, progress: bool) -> None:
    """Tell the user on standard error, where progress is shown."""
    if progress:
        print(text, file=sys.stderr, flush=True)


def follow(
    receipts: Iterable["Receipt"], what: str, n_cells: int, progress: bool, *, done: int, whole: int
) -> None:
    """A bar in cells, with their rate and the time that is left, of receipts in another measure."""
    from tqdm import tqdm

    begun = n_cells * done // whole
    with tqdm(total=n_cells, initial=begun, unit=" cells", desc=what, disable=not progress) as bar:
        for receipt in receipts:
            done += receipt.amount
            bar.update(n_cells * done // whole - begun)
            begun = n_cells * done // whole
