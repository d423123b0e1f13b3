"""Arguments of several commands: the model, key=value settings, and checks of incompatible options."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import split_setting
from ..errors import InputError
from ..model_spec import DEFAULT_MODEL
from ..progress import progress as progress

if TYPE_CHECKING:
    from ..model import DenseModel

MODEL_HELP = (
    "NAME, folder, Hub repository OWNER/NAME, BACKBONE+DECODER(key=value, ...), or BACKBONE alone, which means "
    f"BACKBONE+upsample ({DEFAULT_MODEL})"
)
_SETTING = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*\s*=")
_PAIR = re.compile(r"((?:[A-Za-z]:[\\/])?[^:]+):((?:[A-Za-z]:[\\/])?[^:]+)")  # C:\a.png:C:\b.png splits too


class VerbParser(argparse.ArgumentParser):
    """A verb's parser: options cannot be abbreviated, key=value settings may stand anywhere.

    The namespace has `spelling`: the arguments that the command line sets, as they are spelled there, for `refuse`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "allow_abbrev": False})
        self._inside = False  # argparse's intermixed parsing calls parse_known_args again

    def parse_known_args(  # type: ignore[override]
        self, args: Any = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse; positional words may stand before, between and behind options."""
        if self._inside:
            return super().parse_known_args(args, namespace)
        tokens = list(args or ())
        takes_settings = any(action.dest == "settings" for action in self._actions)
        settings, others = self._settings(tokens) if takes_settings else ([], tokens)
        self._inside = True
        try:
            args, unknown = self.parse_known_intermixed_args(others, namespace)
        except TypeError:  # a verb with verbs of its own
            args, unknown = super().parse_known_args(others, namespace)
        finally:
            self._inside = False
        self._refuse_options(unknown)
        if takes_settings:
            args.settings = [*settings, *args.settings]
        options = {word.partition("=")[0] for word in others}
        args.spelling = {action.dest: text for text, action in self._option_string_actions.items() if text in options}
        for action in self._actions:
            value = getattr(args, action.dest, None)
            if not action.option_strings and value not in (action.default, None, []):
                args.spelling[action.dest] = str(action.metavar or action.dest)
        return args, unknown

    def _refuse_options(self, unknown: list[str]) -> None:
        options = [word.partition("=")[0] for word in unknown if word.startswith("--") and word != "--"]
        if options:
            near = difflib.get_close_matches(options[0], self._option_string_actions, n=1, cutoff=0.7)
            self.error(f"there is no option {options[0]}" + (f"; did you mean {near[0]}?" if near else ""))

    def _settings(self, tokens: list[str]) -> tuple[list[str], list[str]]:
        """Split words into settings and the rest; the word after an option that takes one value is its value."""
        end = tokens.index("--") if "--" in tokens else len(tokens)
        single = {text for text, action in self._option_string_actions.items() if action.nargs is None}
        setting = [
            bool(_SETTING.match(word)) and (index == 0 or tokens[index - 1] not in single)
            for index, word in enumerate(tokens[:end])
        ]
        settings = [word for word, yes in zip(tokens, setting, strict=False) if yes]
        return settings, [word for word, yes in zip(tokens, setting, strict=False) if not yes] + tokens[end:]


def add_settings(parser: argparse.ArgumentParser, text: str) -> None:
    """KEY=VALUE words, as `args.settings`; `text` says what they change."""
    parser.add_argument("settings", nargs="*", default=[], metavar="KEY=VALUE", help=text)


def settings_of(args: argparse.Namespace) -> list[str]:
    """The command line's settings.

    Raises:
        ConfigError: not KEY=VALUE. InputError: a later one overrides an earlier one.
    """
    paths: dict[tuple[str, ...], str] = {}
    for setting in args.settings:
        path = tuple(split_setting(setting)[0])
        for earlier, other in paths.items():
            if earlier[: len(path)] == path and other != setting:
                raise InputError(f"{setting!r} contradicts {other!r}: give one of the two")
        paths[path] = setting
    return list(args.settings)


def add_model_argument(parser: argparse.ArgumentParser, *, positional: bool = False) -> None:
    """MODEL (positional) or --model, and --device."""
    options: dict[str, Any] = {"nargs": "?"} if positional else {}
    name = "model" if positional else "--model"
    parser.add_argument(name, default=DEFAULT_MODEL, metavar="MODEL", help=MODEL_HELP, **options)
    add_device_argument(parser)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or the best available (%(default)s)")


def model_of(args: argparse.Namespace) -> DenseModel:
    """The model that the arguments name, on its device."""
    from ..model_spec import open_model

    return open_model(args.model, args.device, getattr(args, "dtype", None))


def refuse(args: argparse.Namespace, names: Sequence[str], reason: str) -> None:
    """Refuse command-line arguments that would have no effect.

    Args:
        names: of attributes of `args`. reason: "with --list", "without --clip".

    Raises:
        InputError: names those that are set.
    """
    spelling = getattr(args, "spelling", {})
    idle = [spelling[name] for name in names if name in spelling]
    if idle:
        raise InputError(f"{', '.join(idle)} would have no effect {reason}: leave {'them' if idle[1:] else 'it'} out")


def split_pair(text: str) -> tuple[Path, Path]:
    """IMAGE:MASK as two paths."""
    match = _PAIR.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} is not IMAGE:MASK, two paths with a colon between")
    return Path(match[1]), Path(match[2])
