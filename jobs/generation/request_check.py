"""Whether a model can answer a request: asked before any work begins."""

import math
from typing import TYPE_CHECKING, Any

from .request import Group, Request, RequestError, SizeFactor, with_modalities

if TYPE_CHECKING:
    from cfgen_scale.types import AtlasSchema


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
        _check_size_factors(group, schema, where)
        if group.copied and len(request.groups) > 1:
            raise RequestError(f"{where}: a group that copies a table must be the only one.")


def _check_numbers(group: Group, where: str) -> None:
    if isinstance(group.cells, bool) or not isinstance(group.cells, int) or group.cells < 1:
        raise RequestError(f"{where}: cells must be a whole number above 0, not {group.cells!r}.")
    for attribute, weight in group.guidance.items():
        if not _is_finite(weight):
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


def _check_size_factors(group: Group, schema: "AtlasSchema", where: str) -> None:
    try:
        given = with_modalities(group.size_factors, schema)
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None
    copied = group.copied.size_factors if group.copied else ()
    for name, size in given.items():
        if name in copied:
            raise RequestError(f"{where}: the size factor of {name!r} is both given and copied.")
        _check_size_factor(size, f"{where}: the size factor of {name!r}")
    missing = [m.name for m in schema.counted if m.name not in (*given, *copied)]
    if missing and (given or copied):
        raise RequestError(
            f"{where}: size factors are given of every modality or of none; missing: {', '.join(missing)}."
        )


def _check_size_factor(size: SizeFactor, what: str) -> None:
    from cfgen_scale.counter_draws import FARTHEST
    from cfgen_scale.drawing.compiled import LARGEST_MEAN

    if not (_is_finite(size.log_mean) and _is_finite(size.log_sd) and size.log_sd >= 0):
        raise RequestError(
            f"{what} needs a finite log_mean and a finite log_sd of at least 0, not {size.log_mean!r} and "
            f"{size.log_sd!r}."
        )
    largest = size.log_mean + FARTHEST * size.log_sd
    if largest > math.log(LARGEST_MEAN):
        raise RequestError(
            f"{what}, of log_mean {size.log_mean:g} and log_sd {size.log_sd:g}, may be e^{largest:.3g} "
            f"counts a cell; the most that can be drawn is 2^{math.log2(LARGEST_MEAN):g}. log_mean is the "
            "natural logarithm of a number of counts; without log_, give the number itself."
        )


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
