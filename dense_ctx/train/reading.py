"""From YAML to typed frozen dataclasses: every key known, every value of its type, errors by dotted path."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from ..config import strict_keys
from ..errors import ConfigError

T = TypeVar("T")


class Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-4 as a number; YAML 1.1 wants 1.0e-4 and makes a string of the former."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def assign(values: dict[str, Any], setting: str) -> None:
    """Apply "key.sub=value" to nested mappings; keys are checked afterwards, by `typed`."""
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{setting!r} is not KEY=VALUE")
    try:
        value = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{setting!r}: the value is not YAML: {error}") from None
    *path, last = key.strip().split(".")
    place = values
    for index, part in enumerate(path):
        if place.get(part) is None:
            place[part] = {}
        place = place[part]
        if not isinstance(place, dict):
            raise ConfigError(f"{setting!r}: {'.'.join(path[: index + 1])} is {place!r}, which has no keys")
    place[last] = value


def typed(cls: type[T], data: Any, where: str) -> T:
    """Build the dataclass `cls` from a mapping.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} is {data!r}; expected a mapping with {', '.join(f.name for f in fields(cls))}")  # type: ignore[arg-type]
    strict_keys(cls, data, where)
    hints = get_type_hints(cls)
    missing = [
        item.name
        for item in fields(cls)  # type: ignore[arg-type]
        if item.name not in data and item.default is MISSING and item.default_factory is MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: missing key(s) {', '.join(missing)}")
    return cls(**{key: _value(hints[key], value, f"{where}: {key}") for key, value in data.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, choices = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in choices:
            return None
        inner = [choice for choice in choices if choice is not type(None)]
        if isinstance(value, str) and str in inner:
            return value
        return _value(next((c for c in inner if c is not str), str), value, where)
    if is_dataclass(hint) and isinstance(hint, type):
        return typed(hint, value, where)
    if origin is Literal:
        if value in choices:
            return value
        raise ConfigError(f"{where} is {value!r}; expected {' or '.join(map(str, choices))}")
    if origin is tuple and isinstance(value, (list, tuple)):
        length = len(value) if choices[-1] is Ellipsis else len(choices)
        if len(value) == length:
            kinds = [choices[0]] * length if choices[-1] is Ellipsis else choices
            return tuple(_value(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif hint in (int, str) and isinstance(value, hint) and not isinstance(value, bool):
        return value
    elif origin is not None and isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return dict(value)
    name = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise ConfigError(f"{where} is {value!r}; expected {name}")
