"""Training, validation and test cells: decided by hashes of names, never by the order of cells.

A cell's split is a function of the seed and its own name (or of its donor's name and the donors there are):
the same cells in another order, in another file format or read by more workers are split the same way.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from loaders.stores.store import CellStore, names_of

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)


SplitCodes = NDArray[np.uint8]


@dataclass(frozen=True)
class SplitRequest:
    """How cells are to be split; see `loaders.preparation.prepare.prepare` for the meaning of each."""

    split_by: str | None
    split_column: str | None
    validation_fraction: float
    test_fraction: float
    seed: int
    has_test_source: bool

    def __post_init__(self) -> None:
        if self.split_column and self.has_test_source:
            raise ValueError("test cells are named twice, by a test source and by split_column: give one.")
        check_fractions(self.validation_fraction, self.held_out_for_test)

    @property
    def held_out_for_test(self) -> float:
        """Fraction of cells to draw for test: none where it is said which they are."""
        return 0.0 if self.split_column or self.has_test_source else self.test_fraction

    def codes(self, store: CellStore, *, first_test_cell: int) -> SplitCodes:
        """Split codes (n_cells,) of a store whose cells from ``first_test_cell`` on are a test source's."""
        if self.split_column:
            codes = split_by_column(store.obs_column(self.split_column), column=self.split_column)
        else:
            codes = np.full(store.n_cells, TRAIN, dtype=np.uint8)
            codes[first_test_cell:] = TEST
        validation = 0.0 if (codes == VALIDATION).any() else self.validation_fraction
        free = np.flatnonzero(codes == TRAIN)
        fractions = {"validation_fraction": validation, "test_fraction": self.held_out_for_test}
        if self.split_by:
            groups = store.obs_column(self.split_by)[free]
            codes[free] = split_by_group(groups, seed=self.seed, **fractions)
        else:
            names = names_of(store, codes == TRAIN)
            codes[free] = split_by_cell(names, seed=self.seed, **fractions)
        return codes


def require_cells(split: SplitCodes, request: SplitRequest) -> None:
    """Raise ValueError if a split that was asked for came out empty."""
    wanted = {
        TRAIN: True,
        VALIDATION: request.validation_fraction > 0,
        TEST: request.has_test_source or request.held_out_for_test > 0,
    }
    for code, is_wanted in wanted.items():
        if is_wanted and not (split == code).any():
            raise ValueError(
                f"none of {len(split)} cells with counts is a {SPLITS[code]} cell: give more cells or "
                f"another seed, or set the fraction to 0."
            )


def split_by_cell(
    names: Iterable[Any], *, seed: int, validation_fraction: float, test_fraction: float
) -> SplitCodes:
    """Split codes (n,) of cells, each by the hash of its own name: more cells do not move those there are."""
    check_fractions(validation_fraction, test_fraction)
    places = np.fromiter((_hash(seed, str(name)) for name in names), dtype=np.float64)
    codes = np.full(len(places), TRAIN, dtype=np.uint8)
    codes[places < test_fraction + validation_fraction] = VALIDATION
    codes[places < test_fraction] = TEST
    return codes


def split_by_group(
    groups: pd.Categorical, *, seed: int, validation_fraction: float, test_fraction: float
) -> SplitCodes:
    """Split codes (n,) of cells, whole groups (donors) at a time.

    Groups are ranked by their hashes, so that the number held out is right: the fraction of the number of
    groups, rounded, and at least one where the fraction is above zero.
    Raises ValueError where a cell has no group, or where no group would be left to train on.
    """
    check_fractions(validation_fraction, test_fraction)
    codes = np.asarray(groups.codes)
    if (codes < 0).any():
        raise ValueError(
            f"{(codes < 0).sum():,} cells have no value in the column to split by (the first is cell "
            f"{int(np.argmax(codes < 0))}): fill it in, leave these cells out, or split by cell."
        )
    present = np.unique(codes)
    held_out = _held_out(len(present), test_fraction), _held_out(len(present), validation_fraction)
    if sum(held_out) >= len(present):
        raise ValueError(
            f"{len(present)} groups cannot give {held_out[0]} for test and {held_out[1]} for validation and "
            f"still leave one to train on. Split by a column with more levels or by cell, or set a "
            f"fraction to 0."
        )
    hashes = [_hash(seed, str(groups.categories[code])) for code in present]
    ranked = present[np.argsort(hashes, kind="stable")]
    of_group = np.full(len(groups.categories), TRAIN, dtype=np.uint8)
    of_group[ranked[: held_out[0]]] = TEST
    of_group[ranked[held_out[0] : sum(held_out)]] = VALIDATION
    return of_group[codes]


def split_by_column(values: pd.Categorical, *, column: str) -> SplitCodes:
    """Split codes (n,) from an obs column that says train, validation or test of every cell.

    Raises ValueError naming a value that says none of them.
    """
    codes = np.asarray(values.codes)
    named = {str(values.categories[code]) for code in np.unique(codes[codes >= 0])}
    wrong = sorted(named - set(SPLITS)) or (["no value"] if (codes < 0).any() else [])
    if wrong:
        raise ValueError(
            f"obs[{column!r}] gives the split, but has {wrong[0]!r}. Every cell must have one of "
            f"{', '.join(repr(s) for s in SPLITS)}."
        )
    of_category = [SPLITS.index(name) if name in SPLITS else TRAIN for name in map(str, values.categories)]
    return np.array(of_category, dtype=np.uint8)[codes]


def check_fractions(validation_fraction: float, test_fraction: float) -> None:
    """Raise ValueError unless both are fractions that leave cells to train on."""
    for name, value in (("validation_fraction", validation_fraction), ("test_fraction", test_fraction)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, not {value}.")
    if validation_fraction + test_fraction >= 1:
        raise ValueError(
            f"validation_fraction {validation_fraction} and test_fraction {test_fraction} leave nothing to "
            f"train on: their sum must be below 1."
        )


def _held_out(groups: int, fraction: float) -> int:
    return max(1, round(groups * fraction)) if fraction > 0 else 0


def _hash(seed: int, name: str) -> float:
    """A number in [0, 1) that is a function of seed and name: 53 bits of their blake2b."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2.0**53
