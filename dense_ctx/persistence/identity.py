"""Identity of a folder: the settings of its content; other settings are refused, and each difference is named."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, FileError
from ..files import json_digest, read_json, write_json

_LONGEST = 40  # characters of a value in a message
_ABSENT = object()
_DIGEST = "digest"  # of all that is stored with it


@dataclass(frozen=True)
class Identity:
    """The settings that determine a folder's content, in a JSON file of that folder.

    path: the file. what: the folder's content, for messages ("feature cache"). advice: the last sentence of the error
    where settings differ.
    """

    path: Path
    what: str
    advice: str = "Ask for what it holds, or choose another folder"

    def read(self, *, edited: bool = False) -> dict[str, Any] | None:
        """The stored settings, which people may have `edited`; None: the folder is missing or holds only hidden files.

        Raises:
            FileError: the folder holds something else, or the settings cannot be read or were changed.
        """
        folder = self.path.parent
        foreign = in_use(folder, self.path.name)
        if not self.path.exists():  # after the listing: another process may have written it in between
            if foreign:
                raise FileError(f"{folder} exists and holds no {self.what}; choose another folder")
            return None
        repair = f"Remove {folder} if it is of no use, or choose another folder"
        try:
            stored = read_json(self.path)
        except FileError as error:
            raise FileError(f"{error}. {repair}") from None
        if not isinstance(stored, dict):
            raise FileError(f"{self.path} holds {type(stored).__name__}, not the settings of a {self.what}. {repair}")
        if stored.pop(_DIGEST, None) != json_digest(stored) and not edited:
            raise FileError(f"{self.path} was changed after it was written: its digest does not match. {repair}")
        return stored

    def check(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """`read`, and compare with `settings`; other stored keys are ignored. Writes nothing.

        Raises:
            ConfigError: settings differ; each is named with both values.
            FileError: as `read`.
        """
        stored = self.read()
        if stored is not None:
            same = {key: stored[key] for key in settings if key in stored}
            require_equal(same, settings, f"{self.path.parent} holds another {self.what}", self.advice)
        return stored

    def claim(self, settings: Mapping[str, Any], notes: Mapping[str, Any] | None = None) -> None:
        """Store `settings` if there are none yet. Of several processes at once, the first one wins.

        Args:
            settings: JSON values.
            notes: stored with them, not compared.

        Raises:
            ConfigError, FileError: as `check`; it cannot be written.
        """
        while self.check(settings) is None:  # a shared file system may show another machine's file late
            content = json.loads(json.dumps({**(notes or {}), **settings}))
            write_json(self.path, {**content, _DIGEST: json_digest(content)}, once=True)


def in_use(folder: Path, own: str) -> bool:
    """Whether there is something else: a file, or a folder without the file `own` and not of hidden files alone."""
    names = os.listdir(folder) if folder.is_dir() else ["a file"] * folder.exists()
    return own not in names and any(not name.startswith(".") for name in names)


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
        prefix, keys = f"{path}." if path else "", dict.fromkeys([*value, *stored])
        pairs = ((stored.get(key, _ABSENT), value.get(key, _ABSENT), prefix + key) for key in keys)
        return [text for pair in pairs for text in _differences(*pair)]
    if stored == value:
        return []
    one, two = ("nothing" if item is _ABSENT else repr(item) for item in (stored, value))
    # long values are cut to the region where they differ
    shared = next((n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), 0)
    start = max(0, shared - _LONGEST // 3)
    return [f"{path}: {_shortened(one, start)} there, {_shortened(two, start)} now"]


def _shortened(text: str, start: int) -> str:
    if len(text) <= _LONGEST:
        return text
    end = start + _LONGEST
    return ("..." if start else "") + text[start:end] + ("..." if end < len(text) else "")
