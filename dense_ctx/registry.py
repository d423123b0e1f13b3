"""The registry: kinds of parts, and names of parts with lazy targets, imported at first use."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .containment import broken_package, contained
from .errors import (
    ConfigError,
    DenseCtxError,
    FileError,
    InputError,
    MissingDependencyError,
    PluginError,
    UnknownNameError,
    cause_of,
    shortened,
)
from .files import read_text
from .kinds import KIND, KINDS, LONGEST_NAME, NAME, OBJECT, Entry, Kind, Owner, quoted

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


class Registry:
    """All kinds and registered names. Nothing is imported before `resolve`."""

    def __init__(self) -> None:
        self.kinds: dict[str, Kind] = dict(KINDS)
        self._entries: dict[tuple[str, str], Entry] = {}
        self.failures: dict[Owner, str] = {}
        self.skipped: list[Owner] = []  # excluded by DENSE_CTX_SKIP_PLUGINS
        self.callbacks: dict[Owner, dict[str, Callable[[Mapping[str, Any]], None]]] = {}  # hooks called while training
        self.on_failure: Callable[[Owner, BaseException], None] | None = None

    def check_kind(self, kind: Kind, staged: Mapping[str, Kind]) -> None:
        """Refuse a kind whose name is malformed or already defined, or whose base class' module does not exist."""
        if not _is_name(KIND, kind.name):
            raise PluginError(f"kind {quoted(kind.name)} is not lower-case letters, digits and - only, at most 100")
        other = self.kinds.get(kind.name) or staged.get(kind.name)
        if other is not None:
            owner, what = other.owner or "dense_ctx itself", other.base or f"files {other.suffix}"
            raise PluginError(f"kind {kind.name!r} is already defined by {owner} as {what}")
        if (kind.base is None) == (kind.suffix is None):
            raise PluginError(f"kind {kind.name!r}: give a base class or the suffix of its files, one of the two")
        if kind.base is not None and not OBJECT.fullmatch(str(kind.base)):
            raise PluginError(f"kind {kind.name!r}: base {kind.base!r} is not 'package.module:Class'")
        if kind.base is not None and not _module_exists(kind.base.partition(":")[0]):
            raise PluginError(f"kind {kind.name!r}: there is no module {kind.base.partition(':')[0]!r}")

    def check(self, entry: Entry, staged: Mapping[tuple[str, str], Entry]) -> None:
        """Refuse an unknown kind, a malformed or duplicate name, and a target that is malformed or in no module."""
        kind = self.kinds.get(entry.kind) if isinstance(entry.kind, str) else None
        if kind is None:
            raise PluginError(
                f"{quoted(entry.name)} is registered as a {quoted(entry.kind)}, a kind that no plugin here "
                f"defines; the kinds are {', '.join(self.kinds)}"
            )
        if not _is_name(NAME, entry.name):
            raise PluginError(
                f"{entry.kind} name {quoted(entry.name)} is not letters, digits and . _ : + - only, at most 100"
            )
        if problem := kind.problem(entry.target):
            raise PluginError(f"{entry.kind} {entry.name!r}: {problem}")
        key = (entry.kind, entry.name)
        other = self._entries.get(key) or staged.get(key)
        if other is not None:
            raise PluginError(f"{entry.kind} {entry.name!r} is already registered by {other.owner} as {other.target}")
        module = entry.target.partition(":")[0]
        if module != "hub" and not _module_exists(module):
            raise PluginError(f"{entry.kind} {entry.name!r}: there is no module {module!r} (target {entry.target!r})")

    def commit(self, staged: Mapping[tuple[str, str], Entry], kinds: Mapping[str, Kind] = MappingProxyType({})) -> None:
        """Add a plugin's kinds and names, all at once."""
        self.kinds.update(kinds)
        self._entries.update(staged)

    def remove(self, owner: Owner) -> None:
        """Unregister every name of one plugin; its kinds stay, for the parts of other plugins."""
        self._entries = {key: entry for key, entry in self._entries.items() if entry.owner != owner}

    def entries(self, kind: str | None = None) -> Iterator[Entry]:
        """Entries sorted by kind, in order of definition, and name."""
        order = list(self.kinds)
        for key in sorted(self._entries, key=lambda key: (order.index(key[0]), key[1])):
            if kind is None or key[0] == kind:
                yield self._entries[key]

    def names(self, kind: str) -> list[str]:
        """Registered names of one kind, sorted; families end in ':'."""
        return [entry.name for entry in self.entries(kind)]

    def get(self, kind: str, name: str) -> tuple[Entry, tuple[str, ...]]:
        """The entry of `name`, and the positional arguments of a family's member ("timm:NAME" -> ("NAME",)).

        Raises:
            UnknownNameError: with up to three similar names, and the plugins that failed.
        """
        if not isinstance(name, str) or not isinstance(kind, str):
            raise InputError(
                f"a {quoted(kind)} is asked for by name, each a str; got {type(name).__name__}: {quoted(name)}"
            )
        if (kind, name) in self._entries and not name.endswith(":"):
            return self._entries[kind, name], ()
        family, colon, member = name.partition(":")
        if colon and member and (kind, family + ":") in self._entries:
            return self._entries[kind, family + ":"], (member,)
        name = shortened(name, LONGEST_NAME)  # comparing longer names is slow
        if kind not in self.kinds:
            raise UnknownNameError(f"Unknown kind {kind!r}. The kinds are {', '.join(self.kinds)}.")
        names = self.names(kind)
        close = difflib.get_close_matches(name, names, n=3)
        hint = f" Closest: {', '.join(close)}." if close else ""
        some, full = f" Known: {', '.join(names) or 'none'}.", f" `dense-ctx plugins {kind}` lists all {len(names)}."
        more = some if len(names) < 10 else full
        if self.failures:
            more += " Skipped plugins: " + "; ".join(f"{owner} ({cause})" for owner, cause in self.failures.items())
        raise UnknownNameError(f"Unknown {kind} {name!r}.{hint}{more}", hint)

    def base(self, kind: str) -> type | None:
        """The base class of a kind's parts; imports its module. None for kinds of files and for models.

        Raises:
            PluginError: the plugin that defines the kind has no such class.
        """
        definition = self.kinds[kind]
        if definition.base is None:
            return None
        what = f"The base class {definition.base} of kind {kind!r}"
        try:
            base = _attribute(definition.base)
        except Exception as error:
            raise PluginError(f"{what} cannot be imported: {cause_of(error)}") from error
        if not isinstance(base, type):
            raise PluginError(f"{what} is a {type(base).__name__}")
        return base

    def resolve(self, entry: Entry) -> Any:
        """Import an entry's target. If that fails, the whole plugin is unregistered, but for a target with an extra.

        Raises:
            MissingDependencyError: the target's optional extra is not installed; the plugin stays registered.
            PluginError: any other failure, with plugin, distribution, version and cause.
        """
        base = self.base(entry.kind)
        own, install = re.split("[.:]", entry.target)[0], f'"{entry.owner.distribution}[{entry.extra}]"'
        try:
            target = _attribute(entry.target)
        except ModuleNotFoundError as error:
            if entry.extra and (error.name or "").partition(".")[0] != own:
                message = f"{entry.kind} {entry.name!r} needs the package {error.name!r}: pip install {install}"
                raise MissingDependencyError(message) from error
            raise self._fail(entry, error) from error
        except Exception as error:
            if entry.extra:
                what = f"{entry.kind} {entry.name!r} of {entry.owner} cannot be used: a package that it needs"
                raise PluginError(broken_package(what, error, install)) from error
            raise self._fail(entry, error) from error
        problem = None
        if base is not None and isinstance(target, type) and not issubclass(target, base):
            problem = TypeError(f"{entry.target} is not a subclass of {base.__module__}.{base.__name__}")
        elif not callable(target):
            problem = TypeError(f"{entry.target} is a {type(target).__name__}, not a class or function")
        if problem is not None:
            raise self._fail(entry, problem) from problem
        return target

    def bind(self, kind: str, name: str, /, **args: Any) -> partial[Any]:
        """The call that builds a part, with the entry's own arguments as defaults for `args`; nothing is built.

        Raises:
            UnknownNameError: no such name. InputError: wrong arguments. PluginError: as `resolve`.
        """
        entry, positional = self.get(kind, name)
        target = self.resolve(entry)
        arguments = {**entry.args, **args}
        try:
            signature = inspect.signature(target)
        except (TypeError, ValueError):  # a callable written in C may have none; then the call itself raises
            signature = None
        if signature is not None:
            from .config.reader import check_arguments, unknown_keys

            try:
                bound = signature.bind(*positional, **arguments)
            except TypeError as error:
                names = [p.name for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
                unknown = [key for key in arguments if key not in names]
                problem = unknown_keys(unknown, names) if unknown else error
                message = f"{kind} {name!r} ({entry.target}) does not take {arguments}: {problem}"
                raise InputError(message) from None
            try:
                values = {key: value for key, value in bound.arguments.items() if key in arguments}
                check_arguments(target, values, f"{kind} {name!r}")
            except ConfigError as error:
                raise InputError(str(error)) from None
        return partial(target, *positional, **arguments)

    def create(self, kind: str, name: str, /, **args: Any) -> Any:
        """Build a part; arguments as for `bind`.

        Raises:
            UnknownNameError, InputError, PluginError: as `bind`; PluginError also if it is not of its kind.
        """
        entry, _ = self.get(kind, name)
        make = self.bind(kind, name, **args)
        try:
            part = make()
        except DenseCtxError:
            raise
        except (TypeError, ValueError) as error:  # usually a value of the wrong type or out of range
            refused = f"{kind} {name!r} ({entry.target}) does not take {args or 'no arguments'}"
            raise InputError(f"{refused}: {cause_of(error)}") from error
        base = self.base(kind)
        if base is not None and not isinstance(part, base):
            raise PluginError(  # for these arguments only: the plugin stays registered
                f"{kind} {name!r} cannot be used: {entry.target} of {entry.owner} gave a {type(part).__name__}, not a "
                f"{base.__module__}.{base.__name__}"
            )
        return part

    def file(self, kind: str, name: str) -> Traversable:
        """The packaged file registered under `name`, for a kind of files.

        Raises:
            UnknownNameError: no such name. PluginError: the package has no such file.
        """
        entry, _ = self.get(kind, name)
        package, _, path = entry.target.partition(":")
        try:
            file = resources.files(package).joinpath(path)
            if not file.is_file():
                raise FileNotFoundError(f"the package {package} has no file {path}")
        except Exception as error:
            raise self._fail(entry, error) from error
        return file

    def folder(self, entry: Entry) -> Path:
        """The packaged folder of a model that is not on the Hub; raises FileError where there is none."""
        package, _, path = entry.target.partition(":")
        folder = Path(str(resources.files(package).joinpath(*path.split("/"))))
        if not folder.is_dir():
            raise FileError(f"The model {entry.name!r} should lie in the package {package} at {path}: reinstall it")
        return folder

    def text(self, kind: str, name: str) -> str:
        """The text of the file registered under `name`, or of the user's own file: a path, or a name ending in .yaml.

        Raises:
            UnknownNameError, PluginError: as `file`. FileError: the user's file cannot be read.
        """
        if not (name.endswith((".yaml", ".yml")) or "/" in name or Path(name).is_file()):
            return self.file(kind, name).read_text("utf-8")
        try:
            return read_text(Path(name))
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"Cannot read the {kind} {name}: {error}") from None

    def _fail(self, entry: Entry, error: BaseException) -> PluginError:
        self.remove(entry.owner)
        if self.on_failure is not None:
            self.on_failure(entry.owner, error)
        return PluginError(f"{entry.kind} {entry.name!r} cannot be used: {entry.owner} failed ({cause_of(error)})")


def _attribute(target: str) -> Any:
    module, _, path = target.partition(":")
    with contained():
        value: Any = importlib.import_module(module)
        for part in path.split("."):
            value = getattr(value, part)
        return value


def _is_name(pattern: re.Pattern[str], name: object) -> bool:
    return isinstance(name, str) and len(name) <= LONGEST_NAME and pattern.fullmatch(name) is not None


def _module_exists(name: str) -> bool:
    """Whether a module exists; it is not executed, but its parent packages are imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
