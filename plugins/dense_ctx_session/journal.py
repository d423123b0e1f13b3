"""A session's folder: a snapshot, and behind it a line for each thing done since; both survive a kill at any moment."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dense_ctx.errors import CheckpointError, FileError
from dense_ctx.files import read_json, regular_size, sync_folder, write_json, write_text
from dense_ctx.partial_files import unique
from dense_ctx.persistence.lock import locked

SNAPSHOT, JOURNAL = "session.json", "journal.jsonl"
_BEGUN = ".session-begun"  # stands in the folder from before a first save until its snapshot is there
FORMAT = 1
_MOST = 1 << 30  # bytes of a journal


class Folder:
    """The folder of one session, locked for as long as it is open.

    Raises:
        FileError: another session has it open, or it holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))
        if self.path.is_file() or (
            self.path.is_dir()
            and not (self.path / SNAPSHOT).exists()
            and not (self.path / _BEGUN).exists()
            and any(not item.name.startswith(".") for item in self.path.iterdir())
        ):
            raise FileError(f"{path} exists and holds no session; choose another folder")
        self._stack = ExitStack()
        self._stack.enter_context(locked(self.path, f"The session {path}", wait=0.0))
        self._journal: int | None = None
        self._token = self._begun = ""  # of the snapshot, and of the snapshot that the journal follows
        self._waiting: list[str] = []  # lines that the disk has no room for

    def prepare(self, parts: Iterable[str]) -> None:
        """Make the folder; where a first save was killed, remove these parts of it, which no snapshot vouches for.

        Raises:
            FileError: it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if (self.path / SNAPSHOT).exists():
                return
            if (self.path / _BEGUN).exists():
                for part in (self.path / name for name in parts):
                    shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
            (self.path / _BEGUN).touch()
        except OSError as error:
            raise FileError(f"Cannot write {self.path}: {error}") from error

    def write(self, snapshot: dict[str, Any]) -> None:
        """Replace the snapshot and begin a new journal; a kill in between loses nothing.

        Raises:
            FileError: it cannot be written, or the folder holds another session; the old one is unchanged.
        """
        self.require_own(snapshot["session"])
        token = unique()
        write_json(self.path / SNAPSHOT, {"format": FORMAT, "token": token, **snapshot})
        (self.path / _BEGUN).unlink(missing_ok=True)
        self._token, self._waiting = token, []  # the old journal counts no more
        self._begin()
        sync_folder(self.path)

    def _begin(self) -> None:
        self._close_journal()
        write_text(self.path / JOURNAL, _line({"token": self._token}))
        self._begun = self._token

    def require_own(self, session: str) -> None:
        """Raise FileError where the folder holds another session."""
        if (self.path / SNAPSHOT).exists():
            stored = read_json(self.path / SNAPSHOT)
            if not isinstance(stored, dict) or stored.get("session") != session:
                raise FileError(
                    f"{self.path} holds another session: Session.open goes on with it; choose another folder"
                )

    def append(self, event: dict[str, Any]) -> None:
        """Add an event to the journal. A killed process loses nothing; a loss of power may cost the last seconds.

        Raises:
            FileError: it cannot be written, a full disk for example. The event waits, and goes with the next one.
        """
        self._waiting.append(_line(event))
        try:
            if self._begun != self._token:  # there was no room for a new journal
                self._begin()
            if self._journal is None:
                self._journal = os.open(self.path / JOURNAL, os.O_WRONLY | os.O_APPEND)
            _append(self._journal, "".join(self._waiting).encode())
        except OSError as error:
            raise FileError(
                f"Cannot save to {self.path}: {error}. Nothing is lost: {len(self._waiting)} change(s) are in memory, "
                "and the next one writes them too; make room, or save(folder) elsewhere"
            ) from error
        self._waiting = []

    def read(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The snapshot, and the events since.

        Raises:
            FileError: there is none. CheckpointError: damaged, or of a newer format.
        """
        if not (self.path / SNAPSHOT).exists():
            raise FileError(f"{self.path} holds no session ({SNAPSHOT})")
        snapshot = read_json(self.path / SNAPSHOT)
        if not isinstance(snapshot, dict) or snapshot.get("format") != FORMAT:
            raise CheckpointError(
                f"{self.path / SNAPSHOT} is not a session of format {FORMAT}: it is of another version"
            )
        journal = self.path / JOURNAL
        self._token = snapshot["token"]
        if not journal.exists():
            self._begin()
        regular_size(journal, _MOST)
        lines, whole = _lines(journal)
        if not lines or lines[0].get("token") != self._token:  # killed between the two: the snapshot has it all
            self._begin()
            return snapshot, []
        self._begun = self._token
        if whole < journal.stat().st_size:  # the last line was being written when the process was killed
            os.truncate(journal, whole)
        return snapshot, lines[1:]

    def close(self) -> None:
        """Sync the journal and give the lock back."""
        with self._stack:
            self._close_journal()

    def _close_journal(self) -> None:
        handle, self._journal = self._journal, None
        if handle is not None:
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _append(handle: int, data: bytes) -> None:
    """All of it or nothing."""
    size = os.fstat(handle).st_size
    done = 0
    try:
        while done < len(data):
            done += os.write(handle, data[done:])
    except OSError:
        os.ftruncate(handle, size)
        raise


def _line(record: dict[str, Any]) -> str:
    text = json.dumps(record, separators=(",", ":"), allow_nan=False)
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


def _lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records of a journal and the bytes they take; a last line that is torn is left out.

    Raises:
        CheckpointError: damage before the last line.
    """
    records: list[dict[str, Any]] = []
    whole = 0
    parts: Sequence[bytes] = path.read_bytes().split(b"\n")
    for number, part in enumerate(parts):
        checksum, _, text = part.partition(b" ")
        if len(part) > 9 and checksum == b"%08x" % zlib.crc32(text) and number < len(parts) - 1:
            records.append(json.loads(text))
            whole += len(part) + 1
        elif number < len(parts) - 2:
            raise CheckpointError(f"{path} is damaged in line {number + 1}: remove that line, or the file, to go on")
        else:
            break
    return records, whole
