"""The configuration of a run: embedded defaults, then a YAML file, then key=value on the command line."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import yaml

if TYPE_CHECKING:
    from cfgen_scale.training.config import TrainConfig


class ConfigError(ValueError):
    """A configuration key or value is wrong; the message names it and the remedy."""


def load_config(file: Path | str | None = None, overrides: Sequence[str] = ()) -> "TrainConfig":
    """The TrainConfig of a YAML file and ``section.key=value`` overrides, later ones winning.

    Keys not given keep their defaults. Raises ConfigError for unknown keys (naming near ones), wrong
    types and values out of range; FileNotFoundError for a missing file.
    """
    from pydantic import TypeAdapter, ValidationError

    from cfgen_scale.training.config import TrainConfig

    tree = _as_tree(TrainConfig())
    if file is not None:
        merge(tree, _read(Path(file)), where=str(file))
    for override in overrides:
        merge(tree, _parse(override), where=override)
    try:
        return TypeAdapter(TrainConfig).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ").removesuffix(".")
        # What a whole section refuses says itself which of its values is wrong.
        got = "" if isinstance(first["input"], Mapping) else f" (got {first['input']!r})"
        raise ConfigError(f"configuration key {key or '(root)'}: {message}{got}.") from None


def merge(tree: dict[str, Any], given: Mapping[str, Any], *, where: str, above: str = "") -> None:
    """Write the values of ``given`` into ``tree`` in place; a key that is not there raises ConfigError."""
    for key, value in given.items():
        name = f"{above}{key}"
        if isinstance(tree, _Named) and key not in tree:
            tree[key] = deepcopy(tree.template)
        if key not in tree:
            near = get_close_matches(str(key), tree, n=1)
            hint = f"Did you mean {above}{near[0]!s}?" if near else f"Known here: {', '.join(tree)}."
            raise ConfigError(f"unknown configuration key {name!r} in {where}. {hint}")
        if isinstance(tree[key], dict):
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"{name!r} in {where} is a section; set one of {', '.join(tree[key])} in it."
                )
            merge(tree[key], value, where=where, above=f"{name}.")
        else:
            tree[key] = value


def flatten(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """``{"model.velocity.width": 256, ...}``: what is logged of a configuration."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{above}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


class _Named(dict[str, Any]):
    """A section whose keys are names that the user gives, each of a section with the keys of ``template``."""

    def __init__(self, template: dict[str, Any]) -> None:
        super().__init__()
        self.template = template


def _as_tree(config: Any) -> dict[str, Any]:
    """The defaults of a dataclass, with those it holds as sections; a dict of dataclasses is `_Named`."""
    tree, kinds = {}, get_type_hints(type(config))
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            value = _as_tree(value)
        elif isinstance(value, dict):
            value = _Named(_as_tree(get_args(kinds[field.name])[1]()))
        tree[field.name] = value
    return tree


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no configuration file {path}.")
    try:
        document = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path} must hold keys and values, not {type(document).__name__}.")
    return document


def _parse(override: str) -> dict[str, Any]:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r} is not of the form key=value, for example flow.cells=1000000.")
    tree: Any = yaml.safe_load(value)
    if isinstance(tree, str):
        tree = _number(tree)
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return tree


def _number(text: str) -> float | str:
    """YAML 1.1 reads 1e-3 as a string; people mean the number."""
    try:
        return float(text)
    except ValueError:
        return text
