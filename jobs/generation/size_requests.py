"""Size factors as users write them: a number of counts, or a log-normal distribution; of each modality.

size_factor: 5000                          YAML, in a group
size_factor: {log_mean: 8.5, log_sd: 0.4}
size_factor: {rna: 5000, protein: {log_mean: 6, log_sd: 0.2}}
size_factor,size_factor:log_mean,size_factor:rna,size_factor:rna:log_sd        columns of CSV
--size-factor 5000, --size-factor rna=5000                                     options
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .request import ONLY, RequestError, SizeFactor, require_known

COLUMN = "size_factor"
PARTS = ("log_mean", "log_sd")


def size_factors_of_yaml(value: Any, where: str) -> dict[str, SizeFactor]:
    """Modality -> size factor; a value without names is of the only modality. Raises RequestError."""
    if value is None:
        return {}
    if isinstance(value, Mapping) and not set(map(str, value)) & set(PARTS):
        return {str(name): _of_entry(entry, f"{where} of {name}") for name, entry in value.items()}
    return {ONLY: _of_entry(value, where)}


def is_size_column(name: str) -> bool:
    """Whether a column of a CSV request has that form."""
    kind, *rest = name.split(":")
    return kind == COLUMN and len(rest) <= 2 and all(rest) and (len(rest) < 2 or rest[1] in PARTS)


def size_factors_of_columns(given: Mapping[str, str], where: str) -> dict[str, SizeFactor]:
    """The same of a line of CSV: column -> text, empty ones left out. Raises RequestError."""
    entries: dict[str, Any] = {}
    for column, text in given.items():
        if not is_size_column(column):
            continue
        words = column.split(":")[1:]
        part = words.pop() if words and words[-1] in PARTS else None
        name = words[0] if words else ONLY
        if (name in entries) if part is None else not isinstance(entries.setdefault(name, {}), dict):
            raise RequestError(f"{where}: {COLUMN} is given as a number and as a distribution. Keep one.")
        value = number_of(text, f"{where}, {column}")
        if part is None:
            entries[name] = value
        else:
            entries[name][part] = value
    return {name: _of_entry(entry, f"{where}, {COLUMN}") for name, entry in entries.items()}


def size_factors_of_options(options: Sequence[str]) -> dict[str, SizeFactor]:
    """The same of options, ``5000`` or ``rna=5000`` each. Raises RequestError."""
    named = names_of_options(options, "--size-factor", "5000")
    option = "--size-factor"
    return {name: _of_entry(number_of(text, option), option) for name, text in named.items()}


def names_of_options(options: Sequence[str], option: str, example: str) -> dict[str, str]:
    """``VALUE`` or ``MODALITY=VALUE`` each: modality -> value; `ONLY` where no modality is named."""
    named: dict[str, str] = {}
    for text in options:
        name, equals, value = text.partition("=")
        name, value = (name.strip(), value.strip()) if equals else (ONLY, text.strip())
        if not value or (equals and not name):
            raise RequestError(f"{option} {text!r}: write {option} {example}, or MODALITY={example}.")
        if name in named:
            raise RequestError(f"{option} is given twice for the same modality.")
        named[name] = value
    return named


def _of_entry(entry: Any, where: str) -> SizeFactor:
    if isinstance(entry, Mapping):
        entry = {str(key): value for key, value in entry.items()}
        require_known(entry, PARTS, where)
        if missing := [part for part in PARTS if part not in entry]:
            raise RequestError(f"{where}: a distribution needs log_mean and log_sd; {missing[0]} is missing.")
        return SizeFactor(*(_real(entry[part], f"{where}, {part}") for part in PARTS))
    counts = _real(entry, where)
    if not (math.isfinite(counts) and counts > 0):
        raise RequestError(f"{where}: a size factor is a number of counts above 0, not {entry!r}.")
    return SizeFactor(math.log(counts))


def _real(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestError(f"{where}: {value!r} is not a number.")
    return float(value)


def number_of(text: str, where: str) -> float:
    """The number that ``text`` is. Raises RequestError."""
    try:
        return float(text)
    except ValueError:
        raise RequestError(f"{where}: {text!r} is not a number.") from None
