"""The whole plugin contract, on one screen.

A plugin is a module named by an entry point of group `dense_ctx`. It implements any of the six hooks below with
`@hookimpl`, and in each calls `register(name, "package.module:attribute")`. The target is imported at first use, so
a plugin's `__init__` should import nothing but `hookimpl`.

    register(name, target, *, args=None, extra=None)

name    what users type. A name that ends in ":" is a family: "timm:" answers to "timm:NAME", and NAME becomes
        the target's first argument.
target  "package.module:attribute": the class, or a function that builds it.
args    keyword arguments always passed to the target, below the user's own.
extra   the optional extra ("dip" for `pip install yours[dip]`) that brings packages the target imports.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import pluggy

GROUP = "dense_ctx"
API_VERSION = 1  # a plugin may set DENSE_CTX_API = n; a higher n than this is refused, with the reason

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Register(Protocol):
    """The callback handed to every hook."""

    def __call__(  # noqa: D102  described at the top of this file
        self, name: str, target: str, *, args: Mapping[str, Any] | None = None, extra: str | None = None
    ) -> None: ...


class HookSpecs:
    """The six hooks."""

    @hookspec(historic=True)
    def register_backbones(self, register: Register) -> None:
        """Name encoders: targets give a `dense_ctx.Backbone` and accept `weights=`."""

    @hookspec(historic=True)
    def register_decoders(self, register: Register) -> None:
        """Name decoders: targets are called with `dims=`, `strides=` and give a `dense_ctx.Decoder`."""

    @hookspec(historic=True)
    def register_objectives(self, register: Register) -> None:
        """Name training objectives: targets give a `dense_ctx.Objective`."""

    @hookspec(historic=True)
    def register_probes(self, register: Register) -> None:
        """Name probes: targets are called with `task=` and give a `dense_ctx.Probe`."""

    @hookspec(historic=True)
    def register_models(self, register: Register) -> None:
        """Name published models: the target is "hub:owner/repo[@revision]" or "package:folder" inside a wheel."""

    @hookspec(historic=True)
    def register_cues(self, register: Register) -> None:
        """Name supervision maps (depth, flow ...): targets turn frames into maps."""
