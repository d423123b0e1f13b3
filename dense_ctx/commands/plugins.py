"""dense-ctx plugins: list kinds, registered parts, and failed plugins."""

from __future__ import annotations

import argparse
import difflib
import json
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..errors import DenseCtxError, MissingDependencyError, PluginError, PluginWarning, UnknownNameError
from .base import Command

if TYPE_CHECKING:
    from ..kinds import Entry, Kind
    from ..registry import Registry


class Plugins(Command):
    """`dense-ctx plugins`."""

    help = "list kinds and parts with their distributions, and failures"
    description = "Without arguments: parts of every kind. KIND: those of one, such as backbone."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument("kind", nargs="?", metavar="KIND", help="backbone, decoder, segmenter ...; default all")
        parser.add_argument("--json", action="store_true", help="print JSON")
        parser.add_argument("--check", action="store_true", help="import every target too (loads torch)")

    def run(self, args: argparse.Namespace) -> int:
        """Print the registry; status 1 if a plugin or, with --check, a target failed (missing extras do not count)."""
        from ..plugins import SKIP_VARIABLE, load_plugins

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PluginWarning)  # every failure is listed below
            parts = load_plugins(strict=False)
            if args.kind is not None and args.kind not in parts.kinds:
                near = difflib.get_close_matches(args.kind, parts.kinds, n=1)
                hint = f" Did you mean {near[0]}?" if near else ""
                raise UnknownNameError(f"There is no kind {args.kind!r}.{hint} The kinds are {', '.join(parts.kinds)}")
            entries = list(parts.entries(args.kind))
            problems = check_targets(parts, entries) if args.check else []
        if args.json:
            print(json.dumps(_document(parts, entries, problems), indent=2))
        else:
            _print_table(entries)
            counts = Counter(entry.kind for entry in entries)
            print("\n" + ", ".join(f"{kind} {counts[kind]}" for kind in parts.kinds if args.kind in (None, kind)))
            for owner in parts.skipped:
                print(f"skipped by {SKIP_VARIABLE}: {owner}")
            for entry, problem in problems:
                print(f"UNAVAILABLE {entry.kind} {entry.name}: {problem}")
            for owner, cause in parts.failures.items():
                print(f"FAILED {owner}: {cause}")
            if args.check:
                print(f"{len(entries) - len(problems)} of {len(entries)} targets are available")
        broken = [entry for entry, problem in problems if not isinstance(problem, MissingDependencyError)]
        return 1 if parts.failures or broken else 0


def check_targets(parts: Registry, entries: Iterable[Entry]) -> list[tuple[Entry, DenseCtxError]]:
    """Import the targets and look for packaged files and models; Hub models are not checked.

    Returns:
        The unavailable entries, with the error. Their plugins are in `parts.failures` afterwards.
    """
    problems: list[tuple[Entry, DenseCtxError]] = []
    for entry in entries:
        try:
            if entry.owner in parts.failures:
                problems.append((entry, PluginError("its plugin failed")))
            elif parts.kinds[entry.kind].suffix is not None:
                parts.file(entry.kind, entry.name)
            elif entry.kind != "model":
                parts.resolve(entry)
            elif not entry.target.startswith("hub:"):
                parts.folder(entry)
        except DenseCtxError as error:
            problems.append((entry, error))
    return problems


def _document(parts: Registry, entries: list[Entry], problems: list[tuple[Entry, DenseCtxError]]) -> dict[str, Any]:
    return {
        "kinds": [_kind(kind, parts) for kind in parts.kinds.values()],
        "entries": [{"kind": e.kind, "name": e.name, "target": e.target, **asdict(e.owner)} for e in entries],
        "failures": [{**asdict(owner), "cause": cause} for owner, cause in parts.failures.items()],
        "unavailable": [{"kind": e.kind, "name": e.name, "cause": str(cause)} for e, cause in problems],
        "skipped": [owner.plugin for owner in parts.skipped],
    }


def _kind(kind: Kind, parts: Registry) -> dict[str, Any]:
    owner = None if kind.owner is None else kind.owner.plugin  # None: the core
    count = len(parts.names(kind.name))
    return {"name": kind.name, "base": kind.base, "suffix": kind.suffix, "plugin": owner, "count": count}


def _print_table(entries: list[Entry]) -> None:
    rows = [(e.kind, e.name, e.owner.plugin, e.owner.distribution, e.owner.version) for e in entries]
    header = ("KIND", "NAME", "PLUGIN", "DISTRIBUTION", "VERSION")
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
