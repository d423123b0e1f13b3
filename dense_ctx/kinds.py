"""Kinds of parts, and entries of the registry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import shortened

LONGEST_NAME = 100  # letters
KIND = re.compile(r"[a-z][a-z0-9-]*")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]*")
OBJECT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_FILE = re.compile(r"[A-Za-z_][\w.]*:[\w./-]+")
_MODEL = re.compile(r"hub:[\w.-]+/[\w.-]+(@[\w./-]+)?|(?!hub:)[A-Za-z_][\w.]*:[\w./-]+")


@dataclass(frozen=True)
class Owner:
    """The plugin that registered a name."""

    plugin: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"plugin {self.plugin!r} of {self.distribution} {self.version}"


@dataclass(frozen=True)
class Kind:
    """A kind of parts.

    base: "package.module:Class" that its parts are instances of. suffix: its parts are files with this suffix. A model
    has neither: it is a folder of a package, or a Hub repository. owner: the plugin that defines it, None for the core.
    """

    name: str
    base: str | None = None
    suffix: str | None = None
    owner: Owner | None = None

    def problem(self, target: object) -> str | None:
        """Describe what is wrong with the form of a target; None if nothing is."""
        if self.base is not None:
            pattern, expected = OBJECT, "'package.module:attribute'"
        elif self.suffix is not None:
            pattern, expected = _FILE, f"'package:path/of/file{self.suffix}'"
        else:
            pattern, expected = _MODEL, "'hub:owner/repo' or 'package:folder'"
        valid = isinstance(target, str) and pattern.fullmatch(target) and target.endswith(self.suffix or "")
        return None if valid else f"target {quoted(target)} is not {expected}"


KINDS = {
    kind.name: kind
    for kind in (
        Kind("backbone", "dense_ctx.interfaces:Backbone"),
        Kind("decoder", "dense_ctx.interfaces:Decoder"),
        Kind("objective", "dense_ctx.interfaces:Objective"),
        Kind("probe", "dense_ctx.interfaces:Probe"),
        Kind("model"),
        Kind("dataset", "dense_ctx.data.base:DatasetReader"),
        Kind("metric", "dense_ctx.interfaces:Metric"),
        Kind("protocol", suffix=".yaml"),
        Kind("preset", suffix=".yaml"),
        Kind("command", "dense_ctx.commands.base:Command"),
    )
}


@dataclass(frozen=True)
class Entry:
    """One registered name."""

    kind: str
    name: str
    target: str
    owner: Owner
    args: Mapping[str, Any] = field(default_factory=dict)
    extra: str | None = None


def quoted(value: object) -> str:
    """A value in a message."""
    return shortened(repr(value), 200)
