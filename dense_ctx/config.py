"""Frozen dataclasses that name the parts of a model. Unknown keys raise; only JSON values are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

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
