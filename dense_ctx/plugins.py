"""Load plugins from entry points into the registry; a failing plugin is skipped as a whole, with one warning."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from typing import Any

import pluggy

from .containment import contained
from .errors import DenseCtxError, PluginError, PluginWarning, cause_of, shortened
from .hookspecs import API_VERSION, GROUP, HookSpecs
from .kinds import LONGEST_NAME, Entry, Kind, Owner
from .registry import Registry

OWN_DISTRIBUTION = "dense-ctx"
SKIP_VARIABLE = "DENSE_CTX_SKIP_PLUGINS"  # comma-separated entry-point names, or "all" for every third party
STRICT_VARIABLE = "DENSE_CTX_STRICT_PLUGINS"  # "1": a plugin that fails is an error, not a warning

# file-name prefixes of stack frames that a warning should not point at
_INTERNAL = (*(str(Path(str(file)).parent) for file in (__file__, pluggy.__file__, importlib.__file__)), "<frozen ")
_lock = threading.RLock()
_registry: Registry | None = None
_loading = False  # guarded by _lock


def registry() -> Registry:
    """The process-wide registry; the first call loads the plugins.

    Raises:
        PluginError: a plugin calls it while plugins are being loaded; a target may call it, at first use.
    """
    global _registry
    with _lock:
        if _registry is None or _loading:
            _registry = load_plugins()
        return _registry


@contextlib.contextmanager
def blamed(kind: str, part: object) -> Iterator[None]:
    """Errors of a part in the block name it and its plugin.

    Args:
        part: its registered name, or the object; one whose class is not registered keeps its errors.

    Raises:
        PluginError: in place of an error that is neither ours nor of too little memory.
    """
    try:
        yield
    except (DenseCtxError, MemoryError):
        raise
    except Exception as error:
        target = f"{type(part).__module__}:{type(part).__qualname__}"
        entries = [entry for entry in registry().entries(kind) if entry.target == target]
        if isinstance(part, str):
            entries = [registry().get(kind, part)[0]]
        if not entries or type(error).__name__ == "OutOfMemoryError":
            raise
        name = part if isinstance(part, str) else entries[0].name
        raise PluginError(f"{kind} {name!r} of {entries[0].owner} failed: {cause_of(error)}") from error


def call_hook(name: str, implementation: Any, arguments: Mapping[str, Any]) -> None:
    """Call a plugin's implementation of a hook with those arguments that it names; raises what it raises."""
    with contained():
        result = implementation.function(*[arguments[key] for key in implementation.argnames])
        if result is not None:
            raise PluginError(f"{name} returned {result!r}; a hook returns nothing")


def plugin_failed(what: str, part: object, error: BaseException, strict: bool | None = None) -> None:
    """Warn of a failure: `what` happens, by the failure of `part`.

    Raises:
        PluginError: in place of the warning, if it is `strict` (load_plugins), or Python's filters make it an error.
    """
    cause = cause_of(error)
    if strict is None:
        strict = os.environ.get(STRICT_VARIABLE, "") not in ("", "0")
    if strict:
        raise PluginError(f"{part} failed: {cause}") from error
    try:
        warnings.warn(f"{what}: {cause}", PluginWarning, stacklevel=_callers_level())
    except PluginWarning as warning:
        if any(action == "error" and kind is PluginWarning for action, _, kind, *_ in warnings.filters):
            raise PluginError(f"{part} failed: {cause}") from error
        # -W error is meant for the user's code, not for a third party's
        print(f"warning: {warning}", file=sys.stderr)


def load_plugins(strict: bool | None = None) -> Registry:
    """Read every entry point of group `dense_ctx` into a new registry.

    Our own distribution is loaded first, so that no third party can claim a built-in name.

    Args:
        strict: raise `PluginError` at the first plugin that fails. Default: the environment variable
            DENSE_CTX_STRICT_PLUGINS.
    """
    skip = {name.strip() for name in os.environ.get(SKIP_VARIABLE, "").split(",") if name.strip()}
    global _loading
    with _lock:
        if _loading:
            raise PluginError("registry() was called while plugins load: ask for parts in the target, not at import")
        _loading = True
        try:
            loader = _Loader(strict)
            points = []
            for owner, point in sorted(_points(), key=_order):
                if owner.plugin in skip or ("all" in skip and owner.distribution != OWN_DISTRIBUTION):
                    loader.registry.skipped.append(owner)
                elif isinstance(point, Exception):
                    loader.failed(owner, point)
                else:
                    points.append((owner, point))
            loader.load(points)
            return loader.registry
        finally:
            _loading = False


def _points() -> Iterator[tuple[Owner, EntryPoint | Exception]]:
    """The entry points of every distribution, or the error that makes it unusable.

    A distribution that is installed twice (an editable install beside a stale *.egg-info) counts once: the first on
    sys.path, which `import` uses too. Of distributions without plugins only entry_points.txt is read.
    """
    seen: set[str] = set()
    for distribution in distributions():
        try:
            if GROUP not in (distribution.read_text("entry_points.txt") or ""):
                continue
            points = [point for point in distribution.entry_points if point.group == GROUP]
        except Exception as error:
            owner = _owner("?", distribution)
            yield owner, PluginError(f"its entry_points.txt cannot be read: {cause_of(error)}")
            continue
        own = any(point.value == "dense_ctx.builtin" for point in points)
        names = {_owner("", distribution).distribution}
        if points and not own and OWN_DISTRIBUTION in names:
            owner = _owner(points[0].name, distribution)
            cause = PluginError(f"its distribution has the name of this library, {OWN_DISTRIBUTION}; rename it")
            yield Owner(owner.plugin, "a third party's dense-ctx", owner.version), cause
        elif not names & seen:
            seen |= names if points and "an unknown distribution" not in names else set()
            for point in points:
                owner = _owner(point.name, distribution)
                long = PluginError(f"the name of its entry point has {len(point.name)} letters, above {LONGEST_NAME}")
                yield owner, point if len(point.name) <= LONGEST_NAME else long


def _owner(plugin: str, distribution: Distribution) -> Owner:
    name = version = None
    with contextlib.suppress(Exception):  # missing or unreadable METADATA should not prevent loading
        name, version = distribution.metadata["Name"], distribution.version
    name, version = re.sub("[._]", "-", str(name or "an unknown distribution").lower()), str(version or "?")
    return Owner(shortened(plugin, LONGEST_NAME), shortened(name, LONGEST_NAME), shortened(version, 40))


def _order(item: tuple[Owner, EntryPoint | Exception]) -> tuple[bool, str, str]:
    owner, _ = item
    return owner.distribution != OWN_DISTRIBUTION, owner.distribution, owner.plugin


class _Loader:
    """Load plugins one at a time: first the kinds of all of them, then their parts.

    What one hook of a plugin registers is staged, and committed only if the hook succeeds.
    """

    def __init__(self, strict: bool | None) -> None:
        self.strict = strict
        self.registry = Registry()
        self.registry.on_failure = self.failed
        self._owner: Owner | None = None
        self._parts: dict[tuple[str, str], Entry] = {}
        self._kinds: dict[str, Kind] = {}
        self._loaded: dict[str, Owner] = {}
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(HookSpecs)

    def load(self, points: Iterable[tuple[Owner, EntryPoint]]) -> None:
        plugins = [(owner, name) for owner, point in points if (name := self._import(point, owner))]
        for hook, arguments in (
            (self._manager.hook.define_kinds, {"define": self._define}),
            (self._manager.hook.register_parts, {"register": self._register}),
        ):
            for owner, name in plugins:
                if owner not in self.registry.failures:
                    self._call(hook, arguments, owner, name)
        for owner, name in plugins:
            for hook in self._manager.get_hookcallers(self._manager.get_plugin(name)) or ():
                if hook.name.startswith("training_"):
                    (own,) = [each for each in hook.get_hookimpls() if each.plugin_name == name]
                    self.registry.callbacks.setdefault(owner, {})[hook.name] = partial(call_hook, hook.name, own)

    def _import(self, point: EntryPoint, owner: Owner) -> str | None:
        """Import a plugin's module and register it with pluggy; return its pluggy name, None if that failed."""
        name = f"{owner.distribution}:{point.name}"
        try:
            if point.name in self._loaded:
                raise PluginError(f"the entry-point name {point.name!r} already belongs to {self._loaded[point.name]}")
            with contained():
                plugin = point.load()
                _check_module(plugin)
                self._manager.register(plugin, name=name)
                self._manager.check_pending()  # raises for a hookimpl without a spec, such as a misspelt hook
        except Exception as error:
            self._drop(owner, name, error)
            return None
        self._loaded[point.name] = owner
        return name

    def _call(self, hook: pluggy.HookCaller, arguments: dict[str, Any], owner: Owner, name: str) -> None:
        """Call one hook of one plugin and commit what it registers."""
        self._owner, self._parts, self._kinds = owner, {}, {}
        try:
            for implementation in hook.get_hookimpls():
                if implementation.plugin_name == name:
                    call_hook(hook.name, implementation, arguments)
            self.registry.commit(self._parts, self._kinds)
        except Exception as error:
            self._drop(owner, name, error)
        finally:
            self._owner, self._parts, self._kinds = None, {}, {}

    def _drop(self, owner: Owner, name: str, error: BaseException) -> None:
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)
        self.failed(owner, error)

    def failed(self, owner: Owner, error: BaseException) -> None:
        self.registry.failures[owner] = cause_of(error)
        plugin_failed(f"dense_ctx skipped {owner}", owner, error, self.strict)

    def _define(self, kind: str, base: str | None = None, *, suffix: str | None = None) -> None:
        if self._owner is None:
            raise PluginError("define() works only while dense_ctx loads the plugin; do not keep it for later")
        definition = Kind(kind, base, suffix, self._owner)
        self.registry.check_kind(definition, self._kinds)
        self._kinds[kind] = definition

    def _register(
        self, kind: str, name: str, target: str, *, args: Mapping[str, Any] | None = None, extra: str | None = None
    ) -> None:
        if self._owner is None:
            raise PluginError("register() works only while dense_ctx loads the plugin; do not keep it for later")
        entry = Entry(kind, name, target, self._owner, dict(args or {}), extra)
        self.registry.check(entry, self._parts)
        self._parts[kind, name] = entry


def _check_module(plugin: Any) -> None:
    """Refuse a plugin of a later API, and hooks without the decorator, which pluggy would ignore."""
    version = getattr(plugin, "DENSE_CTX_API", API_VERSION)
    if not isinstance(version, int) or version > API_VERSION:
        raise PluginError(f"it is written for plugin API {version}; this dense_ctx has {API_VERSION}")
    for name in [name for name in vars(HookSpecs) if not name.startswith("_")]:
        hook = getattr(plugin, name, None)
        if hook is not None and not inspect.isroutine(hook):  # pluggy would not see it
            raise PluginError(f"{name} is a {type(hook).__name__}; a hook is a function")
        if callable(hook) and not hasattr(hook, f"{GROUP}_impl"):
            raise PluginError(f"{name} lacks the decorator @dense_ctx.hookimpl")


def _callers_level() -> int:
    """The `stacklevel` for this function's caller that points at the nearest frame outside dense_ctx and pluggy."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INTERNAL):
        frame, level = frame.f_back, level + 1
    return level
