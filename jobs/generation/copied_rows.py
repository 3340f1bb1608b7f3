"""New cells that take after the rows of a table, one for one: ``generate --like-obs TABLE``.

What is copied lies as one file of fixed-size records in the work directory, of which each chunk maps its
own rows; the plan holds its digest alone, so that a table of 100 million rows costs no memory.
"""

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .request import Copied, Group, Request, RequestError, SizeFactor, with_modalities

if TYPE_CHECKING:
    import pandas as pd

    from cfgen_scale.types import AtlasSchema, Covariate, IntArray

ROWS_FILE = "copied_rows.bin"
NAMED_AT_MOST = 5


@dataclass(frozen=True)
class LikeObs:
    """A request of one new cell for every row of ``table``, whose columns named as attributes are copied.

    size_factor_columns  modality -> column with the counts of each cell, copied too
    The others are as in `Group`; what is told and untold holds instead of the table's column of that name.
    """

    table: Path
    told: dict[str, str] = field(default_factory=dict)
    untold: tuple[str, ...] = ()
    guidance: dict[str, float] = field(default_factory=dict)
    size_factors: dict[str, SizeFactor] = field(default_factory=dict)
    size_factor_columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CopiedRows:
    """A table read: the request that it makes, the different rows of labels in it (U, attributes copied),
    and an unnamed file of its records, which is gone with this process."""

    request: Request
    combinations: "IntArray"
    file: BinaryIO

    def save(self, directory: Path) -> None:
        """Write the records into ``directory``, aside and renamed, unless they are there. Raises OSError."""
        from cfgen_scale.files import write_file
        from loaders.atlases.writer import room_for

        path = directory / ROWS_FILE
        if path.exists():
            return
        self.file.seek(0)
        with room_for(directory), write_file(path) as file:
            shutil.copyfileobj(self.file, file, 2**20)


@contextmanager
def copied_rows(like: LikeObs, schema: "AtlasSchema", *, near: Path) -> Iterator[CopiedRows]:
    """Read a table, in slabs; its records lie on the disk of ``near`` while the block runs.

    Raises FileNotFoundError or ValueError (no table), SchemaError (unknown names told), RequestError (no
    rows, no column to copy, unknown categories or size factors that are none, with the number of rows).
    """
    from loaders.stores.obs_table import obs_columns, read_obs

    columns = obs_columns(like.table)
    sizes = _size_columns(like, schema, columns)
    fixed = {*like.told, *like.untold}
    covariates = [c for c in schema.covariates if c.name in columns and c.name not in fixed]
    if not covariates:
        raise RequestError(
            f"{like.table} has no column to copy. Its columns: {', '.join(columns)}. Attributes of the "
            f"model: {', '.join(c.name for c in schema.covariates)}. Without a table, ask for --cells."
        )
    with tempfile.TemporaryFile(dir=_existing(near)) as file:
        reading = _Reading(like.table, covariates, sizes)
        wanted = list(dict.fromkeys([*(c.name for c in covariates), *sizes.values()]))
        for slab in read_obs(like.table, wanted):
            file.write(reading.records(slab))
        file.flush()
        reading.require_understood()
        attributes = tuple(c.name for c in covariates)
        copied = Copied(reading.digest.hexdigest(), attributes, tuple(sizes))
        group = Group(reading.rows, like.told, like.untold, like.guidance, dict(like.size_factors), copied)
        yield CopiedRows(Request((group,)), np.array(sorted(reading.combinations), dtype=np.int64), file)


def read_rows(directory: Path, group: Group, rows: slice) -> tuple["IntArray", NDArray[np.float32]]:
    """Labels (n, attributes copied) int64, -1 = untold, and log size factors (n, modalities copied)."""
    copied = group.copied
    assert copied is not None
    dtype = record_type(len(copied.attributes), len(copied.size_factors))
    records = np.memmap(directory / ROWS_FILE, dtype=dtype, mode="r", shape=(group.cells,))[rows]
    return records["labels"].astype(np.int64), np.array(records["log_size_factor"])


def record_type(attributes: int, size_factors: int) -> np.dtype[Any]:
    """What is kept of a row, in an order of bytes that all machines share."""
    return np.dtype([("labels", "<i4", (attributes,)), ("log_size_factor", "<f4", (size_factors,))])


class _Reading:
    """The table while it is read: what is unknown is counted and refused at its end, all at once."""

    def __init__(self, table: Path, covariates: list["Covariate"], sizes: Mapping[str, str]) -> None:
        self._table, self._covariates, self._sizes = table, covariates, sizes
        self._dtype = record_type(len(covariates), len(sizes))
        self._unknown: dict[str, Counter[str]] = {c.name: Counter() for c in covariates}
        self._no_size: Counter[str] = Counter()
        self.rows = 0
        self.digest = hashlib.sha256()
        self.combinations: set[tuple[int, ...]] = set()

    def records(self, slab: "pd.DataFrame") -> bytes:
        """The slab's rows as records."""
        records = np.zeros(len(slab), dtype=self._dtype)
        for k, covariate in enumerate(self._covariates):
            records["labels"][:, k] = self._labels(slab[covariate.name], covariate)
        for s, column in enumerate(self._sizes.values()):
            records["log_size_factor"][:, s] = self._log_sizes(slab[column])
        self.combinations |= set(map(tuple, np.unique(records["labels"], axis=0).tolist()))
        self.rows += len(slab)
        said = records.tobytes()
        self.digest.update(said)
        return said

    def _labels(self, values: "pd.Series[Any]", covariate: "Covariate") -> "IntArray":
        from loaders.stores.store import categorical

        found = categorical(values.array)
        codes, names = np.asarray(found.codes), [str(name) for name in found.categories]
        known = covariate.codes(names)
        rows_of = np.bincount(codes[codes >= 0], minlength=len(names))
        unknown = {names[i]: int(rows_of[i]) for i in np.flatnonzero(known < 0)}
        self._unknown[covariate.name].update(unknown)
        # The last entry answers for -1.
        return np.append(known, -1)[codes]

    def _log_sizes(self, values: "pd.Series[Any]") -> NDArray[np.float64]:
        import pandas as pd

        from cfgen_scale.drawing.compiled import LARGEST_MEAN

        sizes = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        good = (sizes > 0) & (sizes <= LARGEST_MEAN)
        if not good.all():
            self._no_size[str(values.name)] += int((~good).sum())
        return np.log(np.where(good, sizes, 1.0))

    def require_understood(self) -> None:
        """Raise RequestError for no rows, unknown categories, and size factors that are none."""
        if not self.rows:
            raise RequestError(f"{self._table} has no rows.")
        for covariate in self._covariates:
            if unknown := self._unknown[covariate.name]:
                raise RequestError(_unknown_categories(self._table, covariate, unknown))
        for column, n in self._no_size.items():
            raise RequestError(
                f"{self._table}: {n:,} of {self.rows:,} rows have no number above 0 and up to 2^30 in column "
                f"{column!r}, from which size factors are copied."
            )


def _unknown_categories(table: Path, covariate: "Covariate", unknown: Counter[str]) -> str:
    shown = ", ".join(f"{name!r} ({n:,} rows)" for name, n in unknown.most_common(NAMED_AT_MOST))
    more = f" and {len(unknown) - NAMED_AT_MOST} more" if len(unknown) > NAMED_AT_MOST else ""
    known = ", ".join(map(repr, covariate.categories))
    return (
        f"{table}: column {covariate.name!r} has categories that the model does not know: {shown}{more}. "
        f"Known: {known}. Rename them, leave them empty (untold), or tell one for all cells."
    )


def _size_columns(like: LikeObs, schema: "AtlasSchema", columns: tuple[str, ...]) -> dict[str, str]:
    """Modality -> column, in the order of the schema. Raises RequestError for what is not there."""
    asked = with_modalities(like.size_factor_columns, schema)
    for column in asked.values():
        if column not in columns:
            raise RequestError(
                f"{like.table} has no column {column!r} to copy size factors from. Its columns: "
                f"{', '.join(columns)}."
            )
    return {m.name: asked[m.name] for m in schema.counted if m.name in asked}


def _existing(path: Path) -> Path:
    """The nearest folder above ``path`` that exists."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())
