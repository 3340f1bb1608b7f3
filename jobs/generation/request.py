"""What a user asks of a generated atlas: groups of cells, and for each what is told of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cfgen_scale.types import AtlasSchema

DEFAULT_WEIGHT = 1.0
ONLY = ""  # the only modality of a model, where a size factor is given without a name


class RequestError(ValueError):
    """A request cannot be understood or does not fit the model; the message names group, value and remedy."""


@dataclass(frozen=True)
class SizeFactor:
    """Counts of a cell, log-normal: mean and standard deviation of log l. Without spread, exp(log_mean)."""

    log_mean: float
    log_sd: float = 0.0


@dataclass(frozen=True)
class Copied:
    """What the cells of a group take, one for one, from the rows of a table (copied_rows.py).

    digest        sha256 of what is copied, as hex
    attributes    copied ones, in the order of the schema; a missing value is untold
    size_factors  modalities whose size factors are copied, in the order of the schema
    """

    digest: str
    attributes: tuple[str, ...]
    size_factors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Cells that are asked for in the same words.

    cells         how many
    told          attribute -> category that every cell of the group gets
    untold        attributes the model is not told of; they stay a missing value in the atlas
    guidance      attribute -> weight w of Eq. 8 (no unit). 1 where none is given; 0 ignores the attribute
    size_factors  modality -> size factors of the cells; none: drawn as the model has learnt them
    copied        what is copied for each cell from a table of as many rows, or None

    An attribute neither told, untold nor copied is DRAWN for each cell, from how often its categories occur
    in the training cells together with those told or copied.
    """

    cells: int
    told: dict[str, str] = field(default_factory=dict)
    untold: tuple[str, ...] = ()
    guidance: dict[str, float] = field(default_factory=dict)
    size_factors: dict[str, SizeFactor] = field(default_factory=dict)
    copied: Copied | None = None

    def weights(self, schema: "AtlasSchema") -> tuple[float, ...]:
        """Guidance weight of each of the K attributes of the schema; 0 for those untold."""
        return tuple(
            0.0 if c.name in self.untold else float(self.guidance.get(c.name, DEFAULT_WEIGHT))
            for c in schema.covariates
        )

    def with_modalities(self, schema: "AtlasSchema") -> "Group":
        """The group with a size factor of the only modality under that modality's name."""
        return replace(self, size_factors=with_modalities(self.size_factors, schema))

    def to_json(self) -> dict[str, Any]:
        """JSON values: lists, dicts, strings and numbers."""
        copied = self.copied and {name: _listed(value) for name, value in asdict(self.copied).items()}
        return {**asdict(self), "untold": list(self.untold), "copied": copied}

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> "Group":
        """The inverse of ``to_json``."""
        sizes = {name: SizeFactor(**size) for name, size in document["size_factors"].items()}
        copied = document["copied"]
        if copied:
            names = (tuple(copied[key]) for key in ("attributes", "size_factors"))
            copied = Copied(copied["digest"], *names)
        known = {"untold": tuple(document["untold"]), "size_factors": sizes, "copied": copied}
        return Group(**{**document, **known})


@dataclass(frozen=True)
class Request:
    """The groups of an atlas, in the order in which their cells are written."""

    groups: tuple[Group, ...]

    @property
    def n_cells(self) -> int:
        """Cells of all groups."""
        return sum(group.cells for group in self.groups)

    def to_json(self) -> list[dict[str, Any]]:
        """The groups as JSON values."""
        return [group.to_json() for group in self.groups]

    @staticmethod
    def from_json(document: Sequence[Mapping[str, Any]]) -> "Request":
        """The inverse of ``to_json``."""
        return Request(tuple(map(Group.from_json, document)))


def with_modalities[T](of_modality: Mapping[str, T], schema: "AtlasSchema") -> dict[str, T]:
    """The same with the only modality's value under its name. Raises RequestError where that is unclear."""
    known = [modality.name for modality in schema.counted]
    if ONLY in of_modality:
        if len(known) > 1 or len(of_modality) > 1:
            raise RequestError(f"a size factor needs the name of its modality: {', '.join(known)}.")
        return {known[0]: of_modality[ONLY]}
    for name in of_modality:
        if name not in known:
            raise RequestError(f"no modality {name!r} that has a size factor. Known: {', '.join(known)}.")
    return dict(of_modality)


def require_known(keys: Iterable[str], known: Sequence[str], where: str) -> None:
    """Raise RequestError for the first key that is not known, naming the nearest known ones."""
    for key in keys:
        if key not in known:
            near = get_close_matches(key, known, n=3)
            hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Known: {', '.join(known)}."
            raise RequestError(f"{where}: unknown key {key!r}. {hint}")


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
