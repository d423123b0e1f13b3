"""Receipts: which edits were made, so that one that is sent twice is made once, also when a kill came between.

The session's folder keeps what was done; this file keeps under which ids. Before an edit a line says its id, and how
many changes the session has after it: if it has fewer after a kill, the edit was not made.
"""

from __future__ import annotations

import json
import os
from collections import deque
from pathlib import Path

from dense_ctx.errors import FileError
from dense_ctx.files import regular_size, write_text

REMEMBERED = 10_000
_MAX_BYTES = 1 << 27


class Receipts:
    """The file of an open session's receipts.

    Args:
        path: of the file. changes: that the session has had, now.

    Raises:
        FileError: it cannot be read or written.
    """

    def __init__(self, path: Path, changes: int) -> None:
        self.path = path
        ids = [id for id, until in _lines(path) if until <= changes]
        self._order = deque(ids[-REMEMBERED:])
        self._ids = set(self._order)
        # an id in the file from here on has been made
        write_text(path, "".join(_line(id, 0) for id in self._order))
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND)
        except OSError as error:
            raise FileError(f"Cannot write {path}: {error}") from error

    def __contains__(self, id: str) -> bool:
        return id in self._ids

    def announce(self, id: str, until: int) -> None:
        """Write that an edit is about to be made, after which the session has had `until` changes.

        Raises:
            FileError: the disk is full; nothing is left of the line.
        """
        length = os.fstat(self._file).st_size
        try:
            data = _line(id, until).encode()
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            os.ftruncate(self._file, length)
            raise FileError(f"Cannot write {self.path}: {error}. Make room; the page sends the edit again") from error

    def made(self, id: str) -> None:
        """Remember that it was made."""
        self._ids.add(id)
        self._order.append(id)
        if len(self._order) > REMEMBERED:
            self._ids.discard(self._order.popleft())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _line(id: str, until: int) -> str:
    return json.dumps([id, until]) + "\n"


def _lines(path: Path) -> list[tuple[str, int]]:
    """Ids and changes; of several lines of an id the last one. A line that a kill cut off is left out."""
    if not path.exists():
        return []
    regular_size(path, _MAX_BYTES)
    lines: dict[str, int] = {}
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            id, until = json.loads(line)
            lines.pop(str(id), None)
            lines[str(id)] = int(until)
        except (ValueError, TypeError, RecursionError):
            continue  # of a foreign hand: an edit that is sent again may be made again
    return list(lines.items())
