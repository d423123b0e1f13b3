"""A lock of a folder: one process writes at a time, and another one is told which.

The lock is a file beside the folder that names its owner. Where the owner has ended without removing it (a kill), it is
taken over, if it was of this machine; of another machine's nobody can tell, so a person must remove it.
"""

from __future__ import annotations

import glob
import math
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import FileError
from ..files import read_json, unique, write_json

WAIT = 10.0  # seconds
_POLL = 0.02
_LEFT = 60.0
_REUSED = 600.0  # a process that began so much later than the lock has the owner's number by chance


@contextmanager
def locked(path: Path, what: str, wait: float = WAIT) -> Iterator[None]:
    """Within the context no other process, and no other thread, has the lock of `path`.

    Args:
        what: is locked, for messages.
        wait: seconds for which to wait for another's lock; math.inf: until it is free, which is said on stderr.

    Raises:
        FileError: it is still in use, by whom is said; or the lock cannot be written.
    """
    lock = path.with_name(f".{path.name}.lock")
    owner = {"pid": os.getpid(), "since": time.time(), "token": unique(), **_machine()}
    began, announced = time.monotonic(), False
    try:
        while (other := _take(lock, owner)) is not None:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(other["since"]))
            text = f"{what} is in use by process {other['pid']} on {other['host']} since {since}"
            if time.monotonic() - began >= wait:
                raise FileError(
                    f"{text}. Wait for its end or choose another folder; if there is no such process, remove {lock}"
                )
            if wait == math.inf and not announced:
                announced = True
                print(f"{text}: waiting for its end", file=sys.stderr, flush=True)
            time.sleep(_POLL)
        for left in path.parent.glob(f".{glob.escape(lock.stem)}.*.partial.lock"):  # by kills before they had it
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _LEFT:
                    left.unlink()
        yield
    finally:
        if _owner(lock) == owner:
            with suppress(OSError):
                lock.unlink(missing_ok=True)


def _take(lock: Path, owner: dict[str, Any]) -> dict[str, Any] | None:
    """Make the lock ours; if it is another's, that one's words."""
    while True:
        write_json(lock, owner, once=True, sync=False)
        other = _owner(lock)
        if other == owner:
            return None
        if not _ended(other):
            if lock.exists():  # else it was released just now
                return other
            continue
        from filelock import FileLock

        # of several that see a dead one's lock, one removes it: the next one must not remove that one's own
        user = getattr(os, "getuid", int)()
        with FileLock(Path(tempfile.gettempdir()) / f"dense_ctx-{user}.lock"):
            if _owner(lock) == other:
                lock.unlink(missing_ok=True)


def _owner(lock: Path) -> dict[str, Any]:
    """The words of a lock; of nobody known where they cannot be read, or it was removed just now."""
    nobody = {"pid": "unknown", "host": "an unknown machine", "since": time.time()}
    try:
        words = read_json(lock)
        return words if isinstance(words["since"], float) and isinstance(words["pid"], int) else nobody
    except (FileError, KeyError, TypeError):
        return nobody


def _machine() -> dict[str, str]:
    """Where process numbers mean the same: a host, and on Linux a container of it."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return {"host": socket.gethostname(), "space": space}


def _ended(owner: dict[str, Any]) -> bool:
    """Whether an owner on this machine has ended."""
    import psutil

    if any(owner.get(key) != value for key, value in _machine().items()):
        return False
    try:
        process = psutil.Process(owner["pid"])
        return bool(process.status() == psutil.STATUS_ZOMBIE or process.create_time() > owner["since"] + _REUSED)
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, ValueError):
        return False
