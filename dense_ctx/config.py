"""Frozen dataclasses that name the parts of a model. Unknown keys raise; only JSON values are kept."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from .errors import ConfigError

FORMAT_VERSION = 1

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """A registered name with its arguments: Part("dpt", {"dim": 128})."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelConfig:
    """The config.json of a model folder.

    format_version: layout of the folder; a newer one than this library knows is refused.
    backbone, decoder: what to build.
    backbone_tensors: names of the backbone's tensors stored in the checkpoint (fine-tuned, LoRA; all if standalone).
    backbone_digest: sha256 over the backbone's remaining tensors, which come from its own home; "" if standalone.
    plugins: distribution and version of each plugin the parts came from.
    trained_with: free-form record of the training (objective, data, steps ...).
    """

    backbone: Part
    decoder: Part
    format_version: int = FORMAT_VERSION
    backbone_tensors: tuple[str, ...] = ()
    backbone_digest: str = ""
    plugins: Mapping[str, str] = field(default_factory=dict)
    trained_with: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; raises ConfigError for an argument JSON cannot hold."""
        try:
            result: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        except TypeError as error:
            raise ConfigError(f"the model's configuration has a value JSON cannot hold: {error}") from None
        return result

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "config") -> ModelConfig:
        """Read back what `to_dict` wrote; `where` names the file in errors."""
        version = data.get("format_version")
        if not isinstance(version, int):
            raise ConfigError(f"{where}: format_version is {version!r}, not a whole number: is this a dense_ctx model?")
        if version > FORMAT_VERSION:
            raise ConfigError(
                f"{where}: format version {version} is newer than {FORMAT_VERSION}, the newest this dense_ctx reads: "
                "pip install --upgrade dense-ctx"
            )
        values = dict(strict_keys(cls, data, where))
        for key in ("backbone", "decoder"):
            part = values.get(key)
            if not isinstance(part, Mapping):
                raise ConfigError(f"{where}: {key} is {part!r}; expected {{'name': ..., 'args': {{...}}}}")
            values[key] = from_dict(Part, part, f"{where}: {key}")
        values["backbone_tensors"] = tuple(values.get("backbone_tensors", ()))
        return cls(**values)


def strict_keys(cls: type, data: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Refuse keys the dataclass does not have."""
    known = {item.name for item in fields(cls)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise ConfigError(f"{where}: unknown key(s) {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    return data


def from_dict(cls: type[T], data: Mapping[str, Any], where: str = "config") -> T:
    """Build a flat dataclass from a mapping, naming unknown and missing keys."""
    try:
        return cls(**strict_keys(cls, data, where))
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from None


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
    elif hint in (int, str, bool) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    elif origin is not None and isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return dict(value)
    name = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise ConfigError(f"{where} is {value!r}; expected {name}")


def yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong and where, on one line; PyYAML's own message draws the place."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if problem is None:
        return " ".join(str(error).split())
    return str(problem) + (f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else "")
