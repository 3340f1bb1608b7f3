"""Where requests come from: the options of a command line, a YAML file, a CSV file.

A YAML file lists groups under one key::

    groups:
      - cells: 1000
        told: {cell_type: B cells}
        guidance: {cell_type: 2}
        size_factor: 5000
      - cells: 500
        untold: [donor]

A CSV file says the same with a line a group; an empty entry says nothing, and several untold attributes
are separated by semicolons::

    cells,told:cell_type,guidance:cell_type,untold,size_factor
    1000,B cells,2,,5000
    500,,,donor,

What else a size factor may be is said in size_requests.py.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .copied_rows import LikeObs
from .request import Group, Request, RequestError, require_known
from .size_requests import (
    COLUMN,
    is_size_column,
    names_of_options,
    number_of,
    size_factors_of_columns,
    size_factors_of_options,
    size_factors_of_yaml,
)

GROUP_KEYS = ("cells", "told", "untold", "guidance", COLUMN)


def request_from_options(
    cells: int,
    *,
    told: Sequence[str] = (),
    untold: Sequence[str] = (),
    guidance: Sequence[str] = (),
    size_factor: Sequence[str] = (),
) -> Request:
    """One group from options such as ``told=["cell_type=B cells"]``, ``guidance=["cell_type=2"]``.

    Raises RequestError for an option that is not NAME=VALUE, is given twice, or is not a number where one
    is needed.
    """
    sizes = size_factors_of_options(size_factor)
    return Request((Group(cells, _pairs(told, "--told"), tuple(untold), _weights(guidance), sizes),))


def like_obs_from_options(
    table: str | Path,
    *,
    told: Sequence[str] = (),
    untold: Sequence[str] = (),
    guidance: Sequence[str] = (),
    size_factor: Sequence[str] = (),
    copy_size_factors: Sequence[str] = (),
) -> LikeObs:
    """A cell for every row of a table; ``copy_size_factors=["n_counts"]`` or ``["rna=n_counts"]``.

    Raises RequestError as `request_from_options`.
    """
    return LikeObs(
        Path(table),
        _pairs(told, "--told"),
        tuple(untold),
        _weights(guidance),
        size_factors_of_options(size_factor),
        names_of_options(copy_size_factors, "--copy-size-factors", "COLUMN"),
    )


def read_request(path: str | Path) -> Request:
    """The groups of a ``.yaml``, ``.yml`` or ``.csv`` file (forms: see the top of this module).

    Raises RequestError naming file, group and key. Whether attributes and categories exist is checked
    against the model's schema later, by ``check_request``.
    """
    path = Path(path)
    if not path.is_file():
        raise RequestError(f"there is no request file {path}.")
    match path.suffix.lower():
        case ".yaml" | ".yml":
            groups = _yaml_groups(path)
        case ".csv":
            groups = _csv_groups(path)
        case other:
            raise RequestError(f"{path}: a request is a .yaml or .csv file, not {other!r}.")
    if not groups:
        raise RequestError(f"{path}: the file lists no group of cells.")
    return Request(tuple(groups))


def _weights(guidance: Sequence[str]) -> dict[str, float]:
    given = _pairs(guidance, "--guidance")
    return {name: number_of(value, f"--guidance {name}") for name, value in given.items()}


def _pairs(options: Sequence[str], option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in options:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name or not value:
            raise RequestError(f"{option} {text!r}: write {option} ATTRIBUTE=VALUE.")
        if name in pairs:
            raise RequestError(f"{option}: {name!r} is given twice.")
        pairs[name] = value
    return pairs


def _yaml_groups(path: Path) -> list[Group]:
    import yaml

    try:
        document = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise RequestError(f"{path} is not YAML: {error}") from None
    if not isinstance(document, Mapping):
        raise RequestError(f"{path}: the file must be a mapping with the key 'groups'.")
    require_known(map(str, document), ("groups",), str(path))
    groups = document.get("groups") or []
    if not isinstance(groups, list):
        raise RequestError(f"{path}: 'groups' must be a list with an entry for each group of cells.")
    return [_yaml_group(entry, f"{path}, group {i}") for i, entry in enumerate(groups, start=1)]


def _yaml_group(entry: Any, where: str) -> Group:
    entry = _mapping(entry, where)
    require_known(entry, GROUP_KEYS, where)
    if "cells" not in entry:
        raise RequestError(f"{where}: the number of cells is missing.")
    untold = entry.get("untold") or []
    if not isinstance(untold, list):
        raise RequestError(f"{where}: 'untold' must be a list of attributes, not {untold!r}.")
    told = _mapping(entry.get("told") or {}, f"{where}, told")
    return Group(
        cells=entry["cells"],
        told={name: _category(value, f"{where}, told {name}") for name, value in told.items()},
        untold=tuple(map(str, untold)),
        guidance=_mapping(entry.get("guidance") or {}, f"{where}, guidance"),
        size_factors=size_factors_of_yaml(entry.get(COLUMN), f"{where}, {COLUMN}"),
    )


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RequestError(f"{where}: a mapping of keys to values is needed, not {value!r}.")
    return {str(key): entry for key, entry in value.items()}


def _category(value: Any, where: str) -> str:
    # YAML turns a bare `no` into False, `012` into 10 and `1.0` into a number: only plain integers are safe.
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise RequestError(f"{where}: {value!r} is not a name of a category. Put the name in quotes.")


def _csv_groups(path: Path) -> list[Group]:
    lines = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        header = list(lines.fieldnames or ())
        _check_header(header, str(path))
        return [_csv_group(line, f"{path}, line {lines.line_num}") for line in lines]
    except csv.Error as error:
        raise RequestError(
            f"{path}, line {lines.reader.line_num}: {error}. Is a quote out of place? One inside a quoted "
            'entry is doubled: "".'
        ) from None


def _text(path: Path) -> str:
    """The file as text. Raises RequestError naming the line that is not UTF-8."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RequestError(f"{path}, line {line}: the file is not UTF-8. Save it in that encoding.") from None


def _check_header(header: list[str], where: str) -> None:
    if "cells" not in header:
        raise RequestError(f"{where}: the first line must name the columns, and one must be 'cells'.")
    repeated = {name for name in header if header.count(name) > 1}
    if repeated:
        raise RequestError(f"{where}: column {min(repeated)!r} is there twice.")
    for name in header:
        kind, colon, attribute = name.partition(":")
        if not (kind in ("told", "guidance") and colon and attribute) and not is_size_column(name):
            known = ("cells", "untold", f"told:{name}", f"guidance:{name}", COLUMN)
            require_known([name], known, where)


def _csv_group(line: dict[str, Any], where: str) -> Group:
    if None in line or None in line.values():
        raise RequestError(f"{where}: the line has another number of entries than the first line has names.")
    given = {name: value.strip() for name, value in line.items() if value.strip()}
    try:
        cells = int(given.get("cells", ""))
    except ValueError:
        raise RequestError(f"{where}: cells must be a whole number, not {line['cells']!r}.") from None
    return Group(
        cells=cells,
        told=_of_kind(given, "told"),
        untold=tuple(name.strip() for name in given.get("untold", "").split(";") if name.strip()),
        guidance={
            name: number_of(text, f"{where}, guidance {name}")
            for name, text in _of_kind(given, "guidance").items()
        },
        size_factors=size_factors_of_columns(given, where),
    )


def _of_kind(given: dict[str, str], kind: str) -> dict[str, str]:
    return {
        name.removeprefix(f"{kind}:"): text for name, text in given.items() if name.startswith(f"{kind}:")
    }
