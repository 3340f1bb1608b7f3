"""What a user asks of a generated atlas: groups of cells, and for each what is told of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cfgen_scale.types import AtlasSchema

DEFAULT_WEIGHT = 1.0


class RequestError(ValueError):
    """A request cannot be understood or does not fit the model; the message names group, value and remedy."""


@dataclass(frozen=True)
class Group:
    """Cells that are asked for in the same words.

    cells     how many
    told      attribute -> category that every cell of the group gets
    untold    attributes the model is not told of; they stay a missing value in the atlas
    guidance  attribute -> weight w of Eq. 8 (no unit). 1 where none is given; 0 ignores the attribute

    An attribute neither told nor untold is DRAWN for each cell, from how often its categories occur in
    the training cells together with those told.
    """

    cells: int
    told: dict[str, str] = field(default_factory=dict)
    untold: tuple[str, ...] = ()
    guidance: dict[str, float] = field(default_factory=dict)

    def weights(self, schema: "AtlasSchema") -> tuple[float, ...]:
        """Guidance weight of each of the K attributes of the schema; 0 for those untold."""
        return tuple(
            0.0 if c.name in self.untold else float(self.guidance.get(c.name, DEFAULT_WEIGHT))
            for c in schema.covariates
        )


@dataclass(frozen=True)
class Request:
    """The groups of an atlas, in the order in which their cells are written."""

    groups: tuple[Group, ...]

    @property
    def n_cells(self) -> int:
        """Cells of all groups."""
        return sum(group.cells for group in self.groups)

    def to_json(self) -> list[dict[str, Any]]:
        """The groups as JSON values: lists, dicts, strings and numbers."""
        return [{**asdict(group), "untold": list(group.untold)} for group in self.groups]

    @staticmethod
    def from_json(document: Sequence[Mapping[str, Any]]) -> "Request":
        """The inverse of ``to_json``."""
        return Request(tuple(Group(**{**g, "untold": tuple(g["untold"])}) for g in document))


def check_request(request: Request, schema: "AtlasSchema") -> None:
    """Refuse a request that a model of this schema cannot answer.

    Raises RequestError (numbers that make no sense, an attribute told and untold at once) or SchemaError
    (unknown attribute or category; the known ones are listed). Both name the group, counted from 1.
    """
    if not request.groups:
        raise RequestError("the request has no group of cells. Give at least one.")
    for number, group in enumerate(request.groups, start=1):
        where = f"group {number} of the request"
        _check_numbers(group, where)
        _check_attributes(group, schema, where)


def _check_numbers(group: Group, where: str) -> None:
    if isinstance(group.cells, bool) or not isinstance(group.cells, int) or group.cells < 1:
        raise RequestError(f"{where}: cells must be a whole number above 0, not {group.cells!r}.")
    for attribute, weight in group.guidance.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise RequestError(
                f"{where}: the guidance weight of {attribute!r} must be a finite number, not {weight!r}."
            )


def _check_attributes(group: Group, schema: "AtlasSchema", where: str) -> None:
    from cfgen_scale.types import SchemaError

    untold = set(group.untold)
    try:
        for attribute, category in group.told.items():
            schema.covariate(attribute).code(category)
        for attribute in (*group.untold, *group.guidance):
            schema.covariate(attribute)
    except SchemaError as error:
        raise SchemaError(f"{where}: {error}") from None
    for attribute in untold & set(group.told):
        raise RequestError(f"{where}: {attribute!r} is both told and untold. Keep one of the two.")
    for attribute in untold & set(group.guidance):
        raise RequestError(
            f"{where}: {attribute!r} is untold, so that a guidance weight for it has no effect. "
            "Drop the weight, or tell the attribute."
        )


def require_known(keys: Iterable[str], known: Sequence[str], where: str) -> None:
    """Raise RequestError for the first key that is not known, naming the nearest known ones."""
    for key in keys:
        if key not in known:
            near = get_close_matches(key, known, n=3)
            hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Known: {', '.join(known)}."
            raise RequestError(f"{where}: unknown key {key!r}. {hint}")
