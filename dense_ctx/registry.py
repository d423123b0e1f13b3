"""Names to lazy targets: who registered what, and the import at first use."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import InputError, MissingDependencyError, PluginError, UnknownNameError

KINDS = ("backbone", "decoder", "objective", "probe", "model", "cue")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]*")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_MODEL = re.compile(r"hub:[\w.-]+/[\w.-]+(@[\w./-]+)?|(?!hub:)[A-Za-z_][\w.]*:[\w./-]+")


@dataclass(frozen=True)
class Owner:
    """The plugin behind a name."""

    plugin: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"plugin {self.plugin!r} of {self.distribution} {self.version}"


@dataclass(frozen=True)
class Entry:
    """One registered name."""

    kind: str
    name: str
    target: str
    owner: Owner
    args: Mapping[str, Any] = field(default_factory=dict)
    extra: str | None = None


class Registry:
    """All registered names, by kind. Nothing is imported before `resolve`."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], Entry] = {}
        self.failures: dict[Owner, str] = {}
        self.skipped: list[Owner] = []  # left out on purpose, by DENSE_CTX_SKIP_PLUGINS
        self.on_failure: Callable[[Owner, BaseException], None] | None = None

    def check(self, entry: Entry, staged: Mapping[tuple[str, str], Entry]) -> None:
        """Refuse a name or target that is malformed, taken, or whose module does not exist."""
        pattern = _MODEL if entry.kind == "model" else _TARGET
        expected = "'hub:owner/repo' or 'package:folder'" if entry.kind == "model" else "'package.module:attribute'"
        if not isinstance(entry.name, str) or not _NAME.fullmatch(entry.name):
            raise PluginError(f"{entry.kind} name {entry.name!r} is not letters, digits and . _ : + - only")
        if not isinstance(entry.target, str) or not pattern.fullmatch(entry.target):
            raise PluginError(f"{entry.kind} {entry.name!r}: target {entry.target!r} is not {expected}")
        key = (entry.kind, entry.name)
        taken = self._entries.get(key) or staged.get(key)
        if taken is not None:
            raise PluginError(f"{entry.kind} {entry.name!r} is already registered by {taken.owner} as {taken.target}")
        module = entry.target.partition(":")[0]
        if module != "hub" and not _module_exists(module):
            raise PluginError(f"{entry.kind} {entry.name!r}: there is no module {module!r} (target {entry.target!r})")

    def commit(self, staged: Mapping[tuple[str, str], Entry]) -> None:
        """Take over a plugin's names, all at once."""
        self._entries.update(staged)

    def remove(self, owner: Owner) -> None:
        """Forget every name of one plugin."""
        self._entries = {key: entry for key, entry in self._entries.items() if entry.owner != owner}

    def entries(self, kind: str | None = None) -> Iterator[Entry]:
        """Entries in order of kind and name."""
        for key in sorted(self._entries, key=lambda key: (KINDS.index(key[0]), key[1])):
            if kind is None or key[0] == kind:
                yield self._entries[key]

    def names(self, kind: str) -> list[str]:
        """Registered names of one kind, sorted; families end in ':'."""
        return [entry.name for entry in self.entries(kind)]

    def get(self, kind: str, name: str) -> tuple[Entry, tuple[str, ...]]:
        """The entry for `name`, and the positional arguments of a family name ("timm:NAME" -> ("NAME",)).

        Raises:
            UnknownNameError: with the three closest names, and any plugin that failed.
        """
        if not isinstance(name, str):
            raise InputError(f"a {kind} is asked for by name, a str; got {type(name).__name__}: {name!r}")
        if (kind, name) in self._entries and not name.endswith(":"):
            return self._entries[kind, name], ()
        family, colon, rest = name.partition(":")
        if colon and rest and (kind, family + ":") in self._entries:
            return self._entries[kind, family + ":"], (rest,)
        names = self.names(kind)
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.0)
        hint = f" Closest: {', '.join(close)}." if close else f" No {kind} is registered."
        hint += f" `dense-ctx plugins` lists all {len(names)}."
        if self.failures:
            hint += " Skipped plugins: " + "; ".join(f"{owner} ({cause})" for owner, cause in self.failures.items())
        raise UnknownNameError(f"Unknown {kind} {name!r}.{hint}")

    def resolve(self, entry: Entry, base: type | None = None) -> Any:
        """Import an entry's target. A target that cannot be had takes its whole plugin out of the registry.

        Raises:
            MissingDependencyError: the target's optional extra is not installed (the plugin stays).
            PluginError: anything else, naming plugin, distribution, version and cause.
        """
        module_name, _, attribute = entry.target.partition(":")
        try:
            target: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                target = getattr(target, part)
            if base is not None and isinstance(target, type) and not issubclass(target, base):
                raise TypeError(f"{entry.target} is not a subclass of dense_ctx.{base.__name__}")
            if not callable(target):
                raise TypeError(f"{entry.target} is a {type(target).__name__}, not a class or function")
        except ModuleNotFoundError as error:
            if entry.extra and (error.name or "").partition(".")[0] != module_name.partition(".")[0]:
                raise MissingDependencyError(
                    f"{entry.kind} {entry.name!r} needs the package {error.name!r}: "
                    f'pip install "{entry.owner.distribution}[{entry.extra}]"'
                ) from error
            raise self._fail(entry, error) from error
        except (Exception, SystemExit) as error:
            raise self._fail(entry, error) from error
        return target

    def create(self, kind: str, name: str, *, base: type | None = None, **args: Any) -> Any:
        """Build what `name` stands for, with the entry's own arguments below `args`."""
        entry, positional = self.get(kind, name)
        target = self.resolve(entry, base)
        arguments = {**entry.args, **args}
        try:
            signature = inspect.signature(target)
        except (TypeError, ValueError):  # a callable written in C may have none: let the call itself decide
            signature = None
        if signature is not None:
            try:
                signature.bind(*positional, **arguments)
            except TypeError as error:
                message = f"{kind} {name!r} ({entry.target}) does not take {arguments}: {error}"
                raise InputError(message) from None
        made = target(*positional, **arguments)
        if base is not None and not isinstance(made, base):
            wrong = TypeError(f"{entry.target} gave a {type(made).__name__}, not a dense_ctx.{base.__name__}")
            raise self._fail(entry, wrong) from None
        return made

    def _fail(self, entry: Entry, error: BaseException) -> PluginError:
        self.remove(entry.owner)
        if self.on_failure is not None:
            self.on_failure(entry.owner, error)
        cause = f"{type(error).__name__}: {error}"
        return PluginError(f"{entry.kind} {entry.name!r} cannot be used: {entry.owner} failed ({cause})")


def _module_exists(name: str) -> bool:
    """Look a module up without running it (its parent packages are imported)."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
