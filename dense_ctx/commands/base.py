"""Command: interface of the commands of `dense-ctx`."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from typing import ClassVar


class Command(ABC):
    """A verb; its registered name is what users type.

    Its module imports what it needs inside `run`, so that `--help` stays quick.

    Attributes set by the subclass:
        help: one line for `dense-ctx --help`. description, epilog: of `dense-ctx VERB --help`.
        stop_note: what SIGINT or SIGTERM leaves behind, printed then; arguments in braces: "files are in {out}".
        bounds: arguments that, where they are said, bound its memory: the process keeps no freed memory then.
    """

    help: ClassVar[str]
    description: ClassVar[str | None] = None
    epilog: ClassVar[str | None] = None
    stop_note: ClassVar[str] = "nothing was written"
    bounds: ClassVar[tuple[str, ...]] = ("max_memory",)

    @abstractmethod
    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the verb's arguments."""

    @abstractmethod
    def run(self, args: argparse.Namespace) -> int:
        """Run the verb; returns the exit status. A DenseCtxError becomes one line on stderr and status 2."""
