"""What a folder of work was made with: one made otherwise is refused, and every setting that differs is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, FileError
from ..files import read_json, write_json

_LONGEST = 40  # characters of a value in a message
_ABSENT = object()


@dataclass(frozen=True)
class Identity:
    """The settings that decide what a folder holds, in one JSON file of that folder.

    path: the file. what: the folder's content, for messages ("feature cache"). advice: the last sentence of the error
    where settings differ.
    """

    path: Path
    what: str
    advice: str = "Ask for what it holds, or choose another folder"

    def read(self) -> dict[str, Any] | None:
        """The stored settings; None where the folder is missing or empty (hidden files do not count).

        Raises:
            FileError: the folder holds something else, or the settings cannot be read.
        """
        folder = self.path.parent
        in_use = folder.is_file() or (
            folder.is_dir() and any(not item.name.startswith(".") for item in folder.iterdir())
        )
        if not self.path.exists():  # asked after the listing: another process may have written it in between
            if in_use:
                raise FileError(f"{folder} exists and holds no {self.what}; choose another folder")
            return None
        repair = f"Remove {folder} if it is of no use, or choose another folder"
        try:
            stored = read_json(self.path)
        except FileError as error:
            raise FileError(f"{error}. {repair}") from None
        if not isinstance(stored, dict):
            raise FileError(f"{self.path} holds {type(stored).__name__}, not the settings of a {self.what}. {repair}")
        return stored

    def check(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """`read`, and compare with `settings`; what is stored beside these keys does not count. Writes nothing.

        Raises:
            ConfigError: a setting differs; every such setting is named with both values.
            FileError: as `read`.
        """
        stored = self.read()
        if stored is not None:
            same = {key: stored[key] for key in settings if key in stored}
            require_equal(same, settings, f"{self.path.parent} holds another {self.what}", self.advice)
        return stored

    def claim(self, settings: Mapping[str, Any], notes: Mapping[str, Any] | None = None) -> None:
        """Make the folder one of `settings`, if it is not yet. Of processes that do so at once, the first one's stay.

        Args:
            settings: JSON values.
            notes: stored beside them, not compared.

        Raises:
            ConfigError, FileError: as `check`; it cannot be written.
        """
        if self.check(settings) is None:
            write_json(self.path, {**(notes or {}), **settings}, once=True)
            self.check(settings)


def require_equal(stored: Mapping[str, Any], settings: Mapping[str, Any], complaint: str, advice: str) -> None:
    """Raise ConfigError "COMPLAINT (KEY: X there, Y now; ...). ADVICE" where two mappings differ."""
    differing = differences(stored, settings)
    if differing:
        raise ConfigError(f"{complaint} ({'; '.join(differing)}). {advice}")


def differences(stored: Any, settings: Any) -> list[str]:
    """ "KEY: X there, Y now" of each value that differs; nested keys as dotted paths, long values shortened.

    Values are compared as JSON has them: a tuple equals a list. An absent key differs from one that is null.
    """
    return _differences(json.loads(json.dumps(stored)), json.loads(json.dumps(settings)), "")


def _differences(stored: Any, value: Any, path: str) -> list[str]:
    if isinstance(stored, dict) and isinstance(value, dict):
        return [
            text
            for key in dict.fromkeys([*value, *stored])
            for text in _differences(
                stored.get(key, _ABSENT), value.get(key, _ABSENT), f"{path}.{key}" if path else key
            )
        ]
    if stored == value:
        return []
    one, two = ("nothing" if item is _ABSENT else repr(item) for item in (stored, value))
    # long values begin shortly before they part, else two of them might look the same
    shared = next((n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), 0)
    start = max(0, shared - _LONGEST // 3)
    return [f"{path}: {_shortened(one, start)} there, {_shortened(two, start)} now"]


def _shortened(text: str, start: int) -> str:
    if len(text) <= _LONGEST:
        return text
    end = start + _LONGEST
    return ("..." if start else "") + text[start:end] + ("..." if end < len(text) else "")
