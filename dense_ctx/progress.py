"""Progress on stderr: a bar on a terminal, occasional lines in a log file."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, TextIO

MOMENT, PERIOD = 0.5, 30.0  # seconds: shorter work shows no bar; between two lines of a log file, and before the first


def progress(items: Iterable[Any] | None, total: int | None, what: str, unit: str | None = None, row: int = 0) -> Any:
    """A tqdm over `items`, or with None one to `update`; hidden for short work.

    Args:
        total: number of items; None or 0: unknown.
        what: description. unit: of the items; default "frame" of "frames", else "image".
        row: of the bar, where several processes share a terminal.
    """
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    style = {"delay": MOMENT} if terminal else {"file": _Lines(sys.stderr), "delay": PERIOD, "mininterval": PERIOD}
    unit = unit or ("frame" if what == "frames" else "image")
    return tqdm(items, total=total or None, desc=what, unit=unit, position=row, leave=None, maxinterval=PERIOD, **style)


_shown: ContextVar[bool] = ContextVar("shown", default=False)


@contextlib.contextmanager
def bars() -> Iterator[None]:
    """Within the context, long work inside the library (the windows of a large photo) shows how far it is."""
    token = _shown.set(True)
    try:
        yield
    finally:
        _shown.reset(token)


def steps(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    """`items`, with a bar below any other within `bars`."""
    unit = None if what == "frames" else "window"
    return progress(items, total, what, unit, row=1) if _shown.get() and total > 1 else items


def ahead(read: Callable[[Any], Any], items: Iterable[Any], depth: int = 2, threads: int = 1) -> Iterator[Any]:
    """`read` of each item, or its error, in order, up to `depth` ahead: by one thread, unless `read` bears several."""
    waiting, pool = deque[Future[Any]](), ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class _Lines:
    """Writes the states of a bar as separate lines."""

    encoding = "ascii"  # of a bar's characters

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, text: str) -> None:
        if text.strip():
            self.file.write(f"{text.strip()}\n")

    def flush(self) -> None:
        self.file.flush()
