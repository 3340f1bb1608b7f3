"""Library sizes p(l): log-normal over all cells, or given some of their attributes (METHOD 2, Sec. 4.1)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch

from .counter_draws import CounterDraws
from .types import NOT_TOLD, AtlasSchema, IntArray, LibraryStatistics, LogNormalTable

MIN_CELLS_OF_A_LEVEL = 2
NORMALISATION = "(log l - log_range[s][0]) / (log_range[s][1] - log_range[s][0])"
JointLabels = Sequence[tuple[tuple[int, ...], int]]
# A log-normal of some cells, for each size factor, by the labels that these cells have in common.
Tables = dict[tuple[int, ...], list[LogNormalTable]]


@dataclass(frozen=True)
class SizeFactors:
    """Log-normal size factors, fitted by maximum likelihood on log l of the training cells.

    by          attributes whose joint levels have a distribution each, the most telling one first; or none
    mean, sd    (S, R) float32 of log l, of R distributions; the first is that of all cells
    log_range   (S, 2) float32, smallest and largest log l of the training cells
    levels      (R, len(by)) int64, the labels of each distribution, -1 = whatever they are

    A cell has the distribution of the attributes among ``by`` that are told of it. Where fewer than 2
    training cells have these labels, the last of the attributes is left out, then the one before it, and so
    on: in the end that of all cells remains.
    """

    by: tuple[str, ...]
    mean: torch.Tensor
    sd: torch.Tensor
    log_range: torch.Tensor
    levels: IntArray = field(default_factory=lambda: np.zeros((1, 0), dtype=np.int64))

    @staticmethod
    def fit(
        libraries: Sequence[LibraryStatistics],
        schema: AtlasSchema,
        by: str | Sequence[str] | None,
        joint_labels: JointLabels = (),
    ) -> "SizeFactors":
        """From the statistics of the training cells; ``joint_labels`` of `AtlasStatistics` are needed where
        ``by`` names several attributes.

        Raises SchemaError if ``by`` names no attribute, ValueError if it names several and the statistics,
        of an older prepared atlas, do not know them together.
        """
        by = attributes_of(by)
        columns = [schema.covariate_index(name) for name in by]
        tables: Tables = {(NOT_TOLD,) * len(by): [library.overall for library in libraries]}
        if len(by) == 1:
            tables |= _of_levels(libraries, schema, by[0])
        elif by:
            tables |= _of_joint_levels(libraries, joint_labels, columns)
        known = list(tables.values())
        return SizeFactors(
            by,
            _matrix([[row[s].log_mean for row in known] for s in range(len(libraries))], len(known)),
            _matrix([[row[s].log_sd for row in known] for s in range(len(libraries))], len(known)),
            _matrix([[library.log_min, library.log_max] for library in libraries], 2),
            np.array(list(tables), dtype=np.int64).reshape(len(tables), len(by)),
        )

    def sample(self, labels: torch.Tensor, schema: AtlasSchema, draws: CounterDraws) -> torch.Tensor:
        """Log size factors (B, S) float32 for cells of ``labels`` (B, K)."""
        rows = self.rows(labels, schema)
        noise = draws.normal("size factors", torch.arange(len(labels)), len(self.mean))
        return self.mean[:, rows].T + self.sd[:, rows].T * noise

    def rows(self, labels: torch.Tensor, schema: AtlasSchema) -> torch.Tensor:
        """Which distribution, of the R columns of ``mean`` and ``sd``, each cell has: (B,) int64."""
        columns = [schema.covariate_index(name) for name in self.by]
        if not columns:
            return torch.zeros(len(labels), dtype=torch.int64)
        distinct, of_cell = np.unique(labels[:, columns].cpu().numpy(), axis=0, return_inverse=True)
        known = {tuple(level): row for row, level in enumerate(self.levels.tolist())}
        rows = [
            next(known[level] for level in _ever_fewer(told) if level in known) for told in distinct.tolist()
        ]
        return torch.tensor(rows, dtype=torch.int64)[torch.from_numpy(of_cell.reshape(-1))]

    def to_json(self) -> dict[str, Any]:
        """JSON values, among them how log l is normalised before the flow is told of it."""
        return {
            "by": list(self.by),
            "levels": self.levels.tolist(),
            "mean": self.mean.tolist(),
            "sd": self.sd.tolist(),
            "log_range": self.log_range.tolist(),
            "normalisation": NORMALISATION,
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> "SizeFactors":
        """The inverse of ``to_json``; also of models from before there were ``levels``."""
        n_levels = len(document["mean"][0]) if document["mean"] else 1
        by = attributes_of(document["by"])
        of_one = [[level - 1] * len(by) for level in range(n_levels)]
        levels = np.array(document.get("levels", of_one), dtype=np.int64)
        n_rows = len(levels)
        return SizeFactors(
            by,
            _matrix(document["mean"], n_rows),
            _matrix(document["sd"], n_rows),
            _matrix(document["log_range"], 2),
            levels.reshape(n_rows, len(by)),
        )


def attributes_of(by: str | Sequence[str] | None) -> tuple[str, ...]:
    """``size_factors_by`` as a tuple of names."""
    if by is None:
        return ()
    return (by,) if isinstance(by, str) else tuple(by)


def _matrix(rows: Sequence[Sequence[float]], width: int) -> torch.Tensor:
    """(len(rows), width) float32, also where there are no rows."""
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), width)


def _ever_fewer(told: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The labels (len(by),), then without the last one told, and so on, to none."""
    left = list(told)
    yield tuple(left)
    for k in reversed(range(len(left))):
        if left[k] != NOT_TOLD:
            left[k] = NOT_TOLD
            yield tuple(left)


def _of_levels(libraries: Sequence[LibraryStatistics], schema: AtlasSchema, by: str) -> Tables:
    """The distributions of the levels of one attribute that have enough cells."""
    levels = {
        (code,): [library.by_label.get(by, {}).get(category) for library in libraries]
        for code, category in enumerate(schema.covariate(by).categories)
    }
    enough: Tables = {}
    for level, found in levels.items():
        tables = [table for table in found if table is not None and table.n >= MIN_CELLS_OF_A_LEVEL]
        if tables and len(tables) == len(found):
            enough[level] = tables
    return enough


def _of_joint_levels(
    libraries: Sequence[LibraryStatistics], joint_labels: JointLabels, columns: Sequence[int]
) -> Tables:
    """The distributions of the joint levels of attributes, and of some of them, that have enough cells."""
    if any(len(library.by_joint) != len(joint_labels) or not joint_labels for library in libraries):
        raise ValueError(
            "this atlas was prepared before library sizes were kept for joint levels: prepare it again, or "
            "name one attribute in size_factors_by."
        )
    cells: dict[tuple[int, ...], list[int]] = {}
    for place, (labels, _) in enumerate(joint_labels):
        told = [labels[k] for k in columns]
        known = [i for i, label in enumerate(told) if label != NOT_TOLD]
        for n in range(1, len(known) + 1):
            for some in combinations(known, n):
                level = tuple(label if i in some else NOT_TOLD for i, label in enumerate(told))
                cells.setdefault(level, []).append(place)
    pooled = {
        level: [_pooled([library.by_joint[place] for place in places]) for library in libraries]
        for level, places in sorted(cells.items())
    }
    return {
        level: tables for level, tables in pooled.items() if tables and tables[0].n >= MIN_CELLS_OF_A_LEVEL
    }


def _pooled(tables: Sequence[LogNormalTable]) -> LogNormalTable:
    """The log-normal of the cells of all tables together, by maximum likelihood."""
    n, mean, sd = np.array([(t.n, t.log_mean, t.log_sd) for t in tables]).T
    of_all = np.average(mean, weights=n)
    variance = np.average(sd**2 + (mean - of_all) ** 2, weights=n)
    return LogNormalTable(int(n.sum()), float(of_all), float(np.sqrt(variance)))
