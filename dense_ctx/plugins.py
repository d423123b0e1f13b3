"""Entry points to registry. A plugin is taken whole or skipped whole, with one warning that names it."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from .errors import PluginError, PluginWarning
from .hookspecs import API_VERSION, GROUP, HookSpecs
from .registry import KINDS, Entry, Owner, Registry

OWN_DISTRIBUTION = "dense-ctx"
SKIP_VARIABLE = "DENSE_CTX_SKIP_PLUGINS"  # comma-separated entry-point names, or "all" for every third party
STRICT_VARIABLE = "DENSE_CTX_STRICT_PLUGINS"  # "1": a plugin that fails is an error, not a warning

_lock = threading.RLock()
_registry: Registry | None = None


def registry() -> Registry:
    """The process-wide registry; the first call loads the plugins."""
    global _registry
    with _lock:
        if _registry is None:
            _registry = load_plugins()
        return _registry


def load_plugins(strict: bool | None = None) -> Registry:
    """Read every entry point of group `dense_ctx` into a new registry.

    Our own distribution goes first, so that no third party can take a built-in's name.

    Args:
        strict: raise `PluginError` at the first plugin that fails. Default: the variable
            DENSE_CTX_STRICT_PLUGINS.
    """
    if strict is None:
        strict = os.environ.get(STRICT_VARIABLE, "") not in ("", "0")
    skip = {name.strip() for name in os.environ.get(SKIP_VARIABLE, "").split(",") if name.strip()}
    loader = _Loader(strict)
    for point in sorted(entry_points(group=GROUP), key=_order):
        own = _owner(point).distribution == OWN_DISTRIBUTION
        if point.name not in skip and (own or "all" not in skip):
            loader.load(point)
    return loader.registry


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _owner(point: EntryPoint) -> Owner:
    dist = point.dist
    if dist is None:
        return Owner(point.name, "an unknown distribution", "?")
    return Owner(point.name, _normal(dist.name or "?"), dist.version)


def _order(point: EntryPoint) -> tuple[bool, str, str]:
    owner = _owner(point)
    return owner.distribution != OWN_DISTRIBUTION, owner.distribution, point.name


class _Loader:
    """Loads one plugin at a time; its names are staged and taken over only when every hook succeeded."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.registry = Registry()
        self.registry.on_failure = self.failed
        self._owner: Owner | None = None
        self._staged: dict[tuple[str, str], Entry] = {}
        self._seen: dict[str, Owner] = {}
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(HookSpecs)
        for kind in KINDS:
            hook = getattr(self._manager.hook, f"register_{kind}s")
            hook.call_historic(kwargs={"register": partial(self._register, kind)})

    def load(self, point: EntryPoint) -> None:
        owner = _owner(point)
        self._owner, self._staged = owner, {}
        plugin: Any = None
        try:
            if point.name in self._seen:
                raise PluginError(f"the entry-point name {point.name!r} is taken by {self._seen[point.name]}")
            plugin = point.load()
            wanted = getattr(plugin, "DENSE_CTX_API", API_VERSION)
            if wanted != API_VERSION:
                raise PluginError(f"it is written for plugin API {wanted}; this dense_ctx has {API_VERSION}")
            self._manager.register(plugin, name=f"{owner.distribution}:{point.name}")
            self._manager.check_pending()  # a hookimpl no spec knows: a misspelt hook
            self.registry.commit(self._staged)
            self._seen[point.name] = owner
        except (Exception, SystemExit) as error:
            # pluggy keeps a plugin registered when one of its historic hooks raises
            if plugin is not None and self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            self.failed(owner, error)
        finally:
            self._owner, self._staged = None, {}

    def failed(self, owner: Owner, error: BaseException) -> None:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        if isinstance(error, PluginError):
            cause = str(error)
        self.registry.failures[owner] = cause
        if self.strict:
            raise PluginError(f"{owner} failed: {cause}") from error
        warnings.warn(f"dense_ctx skipped {owner}: {cause}", PluginWarning, stacklevel=2)

    def _register(
        self,
        kind: str,
        name: str,
        target: str,
        *,
        args: Mapping[str, Any] | None = None,
        extra: str | None = None,
    ) -> None:
        if self._owner is None:
            raise PluginError(
                "register() works only while dense_ctx loads the plugin; do not keep it for later"
            )
        entry = Entry(kind, name, target, self._owner, dict(args or {}), extra)
        self.registry.check(entry, self._staged)
        self._staged[kind, name] = entry
