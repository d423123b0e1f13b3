"""Names under which files are written before they are complete; what killed writers leave is removed."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path

_REUSED = 600.0  # seconds: a process that began this much later has reused the writer's number
_LEFT = re.compile(r"\..*\.(\d+)-([0-9a-f]{8})-[0-9a-f]{8}\.partial(\..*)?")
_scans: dict[Path, float] = {}


def unique() -> str:
    """A name unique to this call: process number, machine, random digits."""
    return f"{os.getpid()}-{_scope()}-{secrets.token_hex(4)}"


def remove_left(folder: Path) -> None:
    """Remove the partial files and folders of killed processes of this machine; at most 1 % of the time goes to it."""
    if (begin := time.monotonic()) < _scans.get(folder, 0.0):
        return
    with suppress(OSError):  # gone meanwhile, or another user's
        for path in folder.iterdir():
            name = _LEFT.fullmatch(path.name)
            if name and name[2] == _scope() and ended(int(name[1]), path.lstat().st_mtime):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    _scans[folder] = time.monotonic() + 100 * (time.monotonic() - begin)


def machine() -> dict[str, str]:
    """The scope of process numbers: a host, and on Linux a container of it."""
    space = "/proc/self/ns/pid"
    return {"host": socket.gethostname(), "space": os.readlink(space) if os.path.lexists(space) else ""}


def _scope() -> str:
    return hashlib.sha256(" ".join(machine().values()).encode()).hexdigest()[:8]


def ended(pid: int, since: float) -> bool:
    """Whether a process of this machine that was there at `since` (seconds of the epoch) has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        return bool(process.status() == psutil.STATUS_ZOMBIE or process.create_time() > since + _REUSED)
    except (psutil.Error, ValueError, OverflowError) as error:
        return isinstance(error, psutil.NoSuchProcess)
