"""The one reader of configurations: YAML, NAME(key=value, ...), key.sub=value, and mappings to frozen dataclasses."""

from __future__ import annotations

import difflib
import inspect
import json
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import ConfigError, shortened
from .part import Part, parse_part
from .yaml_reader import load_value

T = TypeVar("T")


def json_ready(value: Any, what: str) -> dict[str, Any]:
    """A dataclass as JSON values; raises ConfigError, naming `what`, for one that JSON cannot hold."""
    try:
        result: dict[str, Any] = json.loads(json.dumps(asdict(value)))
    except TypeError as error:
        raise ConfigError(f"{what} has a value JSON cannot hold: {error}") from None
    return result


def override(values: dict[str, Any], *settings: str) -> dict[str, Any]:
    """Apply "key.sub=value" to nested mappings, in place; values are YAML. `typed` checks the keys afterwards.

    Raises:
        ConfigError: not key=value, a value that is not YAML, a key of something that has none.
    """
    for setting in settings:
        path, text = split_setting(setting)
        _assign(values, path, load_value(text, repr(setting)), setting)
    return values


def split_setting(setting: str) -> tuple[list[str], str]:
    """The keys and the value's text of "key.sub=value"; raises ConfigError for anything else."""
    key, equals, text = (word.strip() for word in setting.partition("="))
    path = [word.strip() for word in key.split(".")]
    if not equals or not all(path):
        raise ConfigError(f"{setting!r} is not KEY=VALUE")
    return path, text


def _assign(values: dict[str, Any], path: list[str], value: Any, setting: str) -> None:
    inner = values
    for index, key in enumerate(path[:-1], start=1):
        if inner.get(key) is None:
            inner[key] = {}
        inner = inner[key]
        if not isinstance(inner, dict):
            raise ConfigError(f"{setting!r}: {'.'.join(path[:index])} is {inner!r}, which has no keys")
    inner[path[-1]] = value


def typed(cls: type[T], data: Any, where: str, path: str = "") -> T:
    """Build the dataclass `cls` from a mapping, and those that it holds. A whole number stands for a float as it is.

    Args:
        where: file or whatever the mapping is from, for errors. path: dotted key of the mapping inside it.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type, named by its dotted key.
    """
    at = f"{where}: {path}" if path else where
    items = fields(cls)  # type: ignore[arg-type]
    names = [item.name for item in items]
    if not isinstance(data, Mapping):
        raise ConfigError(f"{at} is {shortened(repr(data), 200)}; expected a mapping with {', '.join(names)}")
    unknown = sorted(str(key) for key in data if key not in names)
    if unknown:
        raise ConfigError(f"{at}: {unknown_keys(unknown, names)}")
    required = [item.name for item in items if item.default is MISSING and item.default_factory is MISSING]
    missing = [name for name in required if name not in data]
    if missing:
        raise ConfigError(f"{at}: missing key(s) {', '.join(missing)}")
    hints, prefix = get_type_hints(cls), f"{path}." if path else ""
    values = {key: _value(hints[key], value, where, f"{prefix}{key}") for key, value in data.items()}
    try:
        return cls(**values)
    except ConfigError as error:  # of its own check
        raise ConfigError(f"{where}: {error}") from None


def check_arguments(target: Any, arguments: Mapping[str, Any], where: str) -> None:
    """Refuse arguments that do not match the type annotations of a class or function.

    Raises:
        ConfigError: as `typed`.
    """
    try:
        hints = get_type_hints(target.__init__ if isinstance(target, type) else target)  # type: ignore[misc]
    except Exception:  # annotations that only a type checker can resolve
        return
    for name, value in arguments.items():
        if name in hints and value is not inspect.Parameter.empty:
            _value(hints[name], value, where, name)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value matches a type annotation."""
    try:
        _value(hint, value, "", "")
    except ConfigError:
        return False
    return True


def unknown_keys(unknown: Iterable[str], names: Iterable[str]) -> str:
    """The message for unknown keys: their names, the closest known ones, and all known ones."""
    names = sorted(names)
    near = [close for key in unknown for close in difflib.get_close_matches(key, names, n=1)]
    hint = f" (did you mean {', '.join(near)}?)" if near else ""
    return f"unknown key(s) {', '.join(unknown)}{hint}; known: {', '.join(names)}"


def _value(hint: Any, value: Any, where: str, path: str) -> Any:
    origin, choices = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _one_of(hint, value, where, path)
    if hint is Part and isinstance(value, str):
        return parse_part(value)
    if is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else typed(hint, value, where, path)
    number = isinstance(value, Real) and not isinstance(value, bool)
    if origin is Literal:
        right = any(value == choice and type(value) is type(choice) for choice in choices)
    elif origin is tuple:
        kinds = choices[:1] * len(value) if choices[-1] is Ellipsis and isinstance(value, (list, tuple)) else choices
        right = isinstance(value, (list, tuple)) and len(value) == len(kinds)
        if right:
            pairs = enumerate(zip(kinds, value, strict=True))
            return tuple(_value(kind, item, where, f"{path}[{index}]") for index, (kind, item) in pairs)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        right = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
        if right:
            return {key: _value(choices[1], item, where, f"{path}.{key}") for key, item in value.items()}
    elif isinstance(origin, type) and issubclass(Sequence, origin):  # a Sequence, an Iterable
        right = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))
        for index, item in enumerate(value if isinstance(value, (list, tuple)) else ()):
            _value(choices[0], item, where, f"{path}[{index}]")
    elif hint is float or hint is int:
        right = number and (hint is float or isinstance(value, Integral))
    else:
        kind = origin or hint
        right = isinstance(value, kind) if isinstance(kind, type) else True
    if not right:
        raise ConfigError(f"{where}: {path} is {shortened(repr(value), 200)}; expected {_expected(hint)}")
    return value


def _one_of(hint: Any, value: Any, where: str, path: str) -> Any:
    choices, problems = get_args(hint), []
    if (value is None and type(None) in choices) or (isinstance(value, str) and str in choices):
        return value
    for choice in [choice for choice in choices if choice not in (type(None), str)] or [str]:
        try:
            return _value(choice, value, where, path)
        except ConfigError as error:
            problems.append(error)
    if len(problems) == 1 or isinstance(value, Mapping):  # of the keys inside
        raise problems[0]
    raise ConfigError(f"{where}: {path} is {shortened(repr(value), 200)}; expected {_expected(hint)}")


def _expected(hint: Any) -> str:
    """A type in words."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, choices))}"
    if origin is tuple:
        return f"a list{'' if choices[-1] is Ellipsis else f' of {len(choices)}'}, each {_expected(choices[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping of names to values"
    if isinstance(origin, type) and issubclass(Sequence, origin):
        return f"a list, each {_expected(choices[0])}"
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(choice) for choice in choices if choice is not type(None))
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
