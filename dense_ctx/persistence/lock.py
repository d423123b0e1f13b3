"""Folder locks: one process writes at a time; the error of another one names it.

The lock is a file beside the folder that names its owner. The lock of a killed process is taken over on the same
machine; one of another machine cannot be checked, and must be removed by hand.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import FileError
from ..files import read_json, write_json
from ..partial_files import ended, machine, unique

WAIT = 10.0  # seconds
_POLL = 0.02


@contextmanager
def locked(path: Path, what: str, wait: float = WAIT) -> Iterator[None]:
    """Hold the lock of `path`, which excludes other processes and threads.

    Args:
        what: description of the folder, for messages.
        wait: seconds to wait for one holder of the lock; math.inf: until it is free, reported on stderr.

    Raises:
        FileError: it is still locked (the message names the owner), or the lock cannot be written.
    """
    lock = path.with_name(f".{path.name}.lock")
    owner = {"pid": os.getpid(), "since": time.time(), "token": unique(), **machine()}
    began, holder, announced = time.monotonic(), None, False
    try:
        while (other := _take(lock, owner)) is not None:
            if other.get("token") != holder:  # others make progress: the wait is for the next one
                began, holder = time.monotonic(), other.get("token")
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(other["since"]))
            text = f"{what} is in use by process {other['pid']} on {other['host']} since {since}"
            gone = f"if there is no such process, remove its lock: rm {lock}"
            if not machine().items() <= other.items():
                gone = f"whether it still runs cannot be seen from this machine or container; {gone}"
            if time.monotonic() - began >= wait:
                raise FileError(f"{text}. Wait for it or choose another folder; {gone}")
            if wait == math.inf and not announced:
                announced = True
                print(f"{text}: waiting for its end; {gone}", file=sys.stderr, flush=True)
            time.sleep(_POLL)
        yield
    finally:
        if _owner(lock) == owner:
            with suppress(OSError):
                lock.unlink(missing_ok=True)


def _take(lock: Path, owner: dict[str, Any]) -> dict[str, Any] | None:
    """Acquire the lock; returns None, or the current owner's record."""
    while True:
        write_json(lock, owner, once=True, sync=False)
        other = _owner(lock)
        if other == owner:
            return None
        if not (machine().items() <= other.items() and ended(other["pid"], other["since"])):
            if lock.exists():
                return other
            time.sleep(_POLL)  # it was just released, or is not seen yet on a shared file system
            continue
        from filelock import FileLock

        # of several that see a dead owner's lock, one removes it; the next must not remove that one's new lock
        user = getattr(os, "getuid", int)()
        with FileLock(Path(tempfile.gettempdir()) / f"dense_ctx-{user}.lock"):
            if _owner(lock) == other:
                lock.unlink(missing_ok=True)


def _owner(lock: Path) -> dict[str, Any]:
    """The record in a lock; an unknown owner if it cannot be read, or was just removed."""
    nobody = {"pid": "unknown", "host": "an unknown machine", "since": time.time()}
    try:
        record = read_json(lock)
        whole = isinstance(record["host"], str) and isinstance(record["pid"], int) and 0 < record["since"] < 1e11
        return record if whole else nobody
    except (FileError, KeyError, TypeError):
        return nobody
