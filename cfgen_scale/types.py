"""What flows through the system: a design is its list of data types.

Shape legend, used in every docstring of the project:

====== =============================================================
letter meaning
====== =============================================================
N      cells of an atlas
B      cells of a batch on this worker (of the global batch: B_global)
G      features (genes or peaks) of one modality
D      latent dimensions
K      attributes (the categorical covariates of the schema)
S      size factors per cell: one for each modality of counts, in order; binarised
       modalities have none
====== =============================================================

A label of ``-1`` always means **not told**: an unlabelled cell, a dropped condition in training, the
unconditional field, the other attributes while one guides, or a label unknown at imputation.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

NOT_TOLD = -1

LikelihoodKind = Literal["negative_binomial", "poisson", "bernoulli"]
AttributesTold = Literal["one", "all", "subset"]
IntArray = NDArray[np.int64]


class SchemaError(ValueError):
    """A store, request or model does not fit the schema; the message names the first difference."""


@dataclass(frozen=True)
class Modality:
    """One kind of measurement: its name, the distribution of its counts, and its G features in order.

    Counts of a "bernoulli" modality are binarised: 1 where a cell has any, and no size factor (METHOD 2).
    """

    name: str
    likelihood: LikelihoodKind
    features: tuple[str, ...]

    @property
    def counted(self) -> bool:
        """Whether it has counts, and so a size factor; else it is binarised."""
        return self.likelihood != "bernoulli"


@dataclass(frozen=True)
class Covariate:
    """One categorical attribute of cells and its ordered categories; a label is an index into them."""

    name: str
    categories: tuple[str, ...]

    def codes(self, values: Sequence[Any] | NDArray[Any]) -> IntArray:
        """Labels ``(n,)`` of category names; a missing value or one not in the schema becomes -1."""
        lookup = {category: code for code, category in enumerate(self.categories)}
        return np.array([lookup.get(str(value), NOT_TOLD) for value in values], dtype=np.int64)

    def code(self, category: str) -> int:
        """The label of one category. Raises SchemaError listing the known ones."""
        if category not in self.categories:
            known = ", ".join(repr(c) for c in self.categories)
            raise SchemaError(f"{self.name!r} has no category {category!r}. Known categories: {known}.")
        return self.categories.index(category)


@dataclass(frozen=True)
class AtlasSchema:
    """What the columns and labels of an atlas mean; travels inside every checkpoint and generated atlas."""

    modalities: tuple[Modality, ...]
    covariates: tuple[Covariate, ...]

    @property
    def counted(self) -> tuple[Modality, ...]:
        """The S modalities that have a size factor, in the order of the columns of (B, S)."""
        return tuple(modality for modality in self.modalities if modality.counted)

    @property
    def size_factor_columns(self) -> tuple[str, ...]:
        """The names of the S size factors as obs columns: ``size_factor``, or of several modalities that have
        one ``size_factor:NAME`` each."""
        names = [modality.name for modality in self.counted]
        return ("size_factor",) if len(names) == 1 else tuple(f"size_factor:{name}" for name in names)

    def covariate(self, name: str) -> Covariate:
        """The covariate of that name. Raises SchemaError listing the known ones."""
        return self.covariates[self.covariate_index(name)]

    def covariate_index(self, name: str) -> int:
        """Column of that covariate in a label matrix ``(B, K)``. Raises SchemaError if unknown."""
        names = [c.name for c in self.covariates]
        if name not in names:
            raise SchemaError(
                f"no attribute {name!r} in the schema. Known attributes: {', '.join(names) or 'none'}."
            )
        return names.index(name)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(document: dict[str, Any]) -> "AtlasSchema":
        return AtlasSchema(
            modalities=tuple(
                Modality(m["name"], m["likelihood"], tuple(m["features"])) for m in document["modalities"]
            ),
            covariates=tuple(Covariate(c["name"], tuple(c["categories"])) for c in document["covariates"]),
        )

    def digest(self) -> str:
        """sha256 of the schema's canonical JSON, as hex."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def require_same(self, other: "AtlasSchema", *, this: str, that: str) -> None:
        """Raise SchemaError naming the first difference between ``this`` (self) and ``that`` (other)."""
        difference = _first_difference(self, other, this, that)
        if difference:
            raise SchemaError(f"{this} and {that} do not have the same schema: {difference}.")


def _first_difference(a: AtlasSchema, b: AtlasSchema, this: str, that: str) -> str | None:
    pairs: list[tuple[str, Sequence[str], Sequence[str]]] = [
        ("modalities", [m.name for m in a.modalities], [m.name for m in b.modalities]),
        ("likelihoods", [m.likelihood for m in a.modalities], [m.likelihood for m in b.modalities]),
        ("attributes", [c.name for c in a.covariates], [c.name for c in b.covariates]),
    ]
    pairs += [
        (f"features of {x.name!r}", x.features, y.features)
        for x, y in zip(a.modalities, b.modalities, strict=False)
    ]
    pairs += [
        (f"categories of {x.name!r}", x.categories, y.categories)
        for x, y in zip(a.covariates, b.covariates, strict=False)
    ]
    for what, left, right in pairs:
        if tuple(left) == tuple(right):
            continue
        for i, (x, y) in enumerate(zip(left, right, strict=False)):
            if x != y:
                return f"{what} differ first at place {i}: {x!r} in {this}, {y!r} in {that}"
        return f"{what}: {len(left)} in {this}, {len(right)} in {that}"
    return None


@dataclass(frozen=True)
class LogNormalTable:
    """Log library sizes of ``n`` cells: their mean and standard deviation (maximum likelihood, ddof 0)."""

    n: int
    log_mean: float
    log_sd: float


@dataclass(frozen=True)
class LibraryStatistics:
    """Log library sizes of one modality over the training cells (METHOD: p(l) and p(l | c), Sec. 4.1).

    ``by_label[attribute][category]`` holds the table of each level; levels without cells are absent.
    ``by_joint`` holds that of each of ``AtlasStatistics.joint_labels``, in their order; it is empty in
    atlases that were prepared before it was there.
    ``log_min`` and ``log_max`` are the range that normalises log l before it is told to the flow.
    """

    overall: LogNormalTable
    log_min: float
    log_max: float
    by_label: dict[str, dict[str, LogNormalTable]] = field(default_factory=dict)
    by_joint: tuple[LogNormalTable, ...] = ()


@dataclass(frozen=True)
class AtlasStatistics:
    """What generation needs to know of the training cells: library sizes and how often labels occur together.

    ``libraries`` (S) are of the modalities that have size factors.
    ``joint_labels`` lists every observed combination of labels ``(K codes)`` with its number of cells.
    ``feature_totals[m]`` is the total count of each feature ``(G,)`` over the training cells; of a binarised
    modality, the number of cells that have it.
    """

    libraries: tuple[LibraryStatistics, ...]
    joint_labels: tuple[tuple[tuple[int, ...], int], ...]
    feature_totals: tuple[NDArray[np.float64], ...]


@dataclass(frozen=True)
class CellBatch:
    """One worker's share of one global batch.

    rows          (B,) int64, row of each cell in the prepared atlas
    positions     (B,) int64, place of each cell in the global batch (draws are addressed by it)
    global_cells  number of cells of the global batch over all workers; short for the last of an epoch
    cells_seen    state of the stream AFTER this global batch: give it back to resume right behind it
    counts        per modality a CSR matrix (B, G) of raw counts
    labels        (B, K) int64, -1 = not told
    """

    rows: IntArray
    positions: IntArray
    global_cells: int
    cells_seen: int
    counts: tuple[csr_matrix, ...]
    labels: IntArray


@dataclass(frozen=True)
class Condition:
    """What the velocity is told of each cell: labels (B, K) int64, -1 = not told; log size factors (B, S)."""

    labels: torch.Tensor
    log_size_factor: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def untold(self) -> "Condition":
        """The same cells with no attribute told: the condition of the unconditional field."""
        return Condition(torch.full_like(self.labels, NOT_TOLD), self.log_size_factor)

    def only(self, *attributes: int) -> "Condition":
        """The same cells with these attributes alone told; one of them: u(z | y_k) of Eq. 8."""
        labels = torch.full_like(self.labels, NOT_TOLD)
        for k in attributes:
            labels[:, k] = self.labels[:, k]
        return Condition(labels, self.log_size_factor)

    @cached_property
    def distinct_labels(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The labels that occur (U, K), and which of them each cell has (B,)."""
        if not self.labels.shape[1]:  # without attributes all cells are alike
            return self.labels[:1], torch.zeros(len(self), dtype=torch.int64, device=self.labels.device)
        labels, of_cell = self.labels.unique(dim=0, return_inverse=True)
        return labels, of_cell


@dataclass(frozen=True)
class PathSample:
    """A point on the probability path: t (B,), z_t (B, D) and its target velocity u_t (B, D)."""

    t: torch.Tensor
    z_t: torch.Tensor
    u_t: torch.Tensor


@dataclass(frozen=True)
class GeneratedCells:
    """Cells drawn from a model: counts per modality CSR (B, G) int32, or () before they are decoded; labels
    (B, K) int64 with -1 = untold, log_size_factor (B, S) float32, latent (B, D) float32."""

    counts: tuple[csr_matrix, ...]
    labels: IntArray
    log_size_factor: NDArray[np.float32]
    latent: NDArray[np.float32]
