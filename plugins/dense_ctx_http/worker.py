"""Worker: a thread that runs calls, the urgent ones first."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
EDIT, VIEW, THUMBNAIL, LATER = range(4)  # urgency: an edit, what a user looks at, small pictures, propagation
QUIET, PATIENCE = 0.25, 1.0  # seconds


class Worker:
    """Runs calls one after the other, in order of urgency and then of arrival.

    A call whose caller has gone before it began is left out.

    Args:
        behind: another worker. Each call waits until that one has had nothing to do for a moment, up to a second, so
            that a stroke has the processor for itself.
    """

    def __init__(self, behind: Worker | None = None) -> None:
        self._calls: queue.PriorityQueue[tuple[int, int, Any]] = queue.PriorityQueue()
        self._order, self._behind = itertools.count(), behind
        self._busy, self._ended = False, 0.0
        self._thread = threading.Thread(target=self._work, name="dense_ctx server", daemon=True)
        self._thread.start()

    def submit(self, urgency: int, call: Callable[[], T]) -> Future[T]:
        """Queue a call. urgency: EDIT, VIEW, THUMBNAIL or LATER."""
        future: Future[T] = Future()
        self._calls.put((urgency, next(self._order), (future, call)))
        return future

    async def run(self, urgency: int, call: Callable[[], T]) -> T:
        """Its result, for a coroutine; the call's exception is raised."""
        return await asyncio.wrap_future(self.submit(urgency, call))

    def stop(self) -> None:
        """End the thread after the call it runs; calls that wait are left out."""
        self._calls.put((-1, next(self._order), None))
        self._thread.join()

    def _work(self) -> None:
        while (item := self._calls.get()[2]) is not None:
            future, call = item
            self._wait()
            if not future.set_running_or_notify_cancel():
                continue
            self._busy = True
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
            self._ended, self._busy = time.monotonic(), False

    def _wait(self) -> None:
        end = time.monotonic() + PATIENCE
        while self._behind is not None and time.monotonic() < end and self._behind.active:
            time.sleep(0.02)

    @property
    def active(self) -> bool:
        """Whether a call runs, or ran a moment ago."""
        return self._busy or not self._calls.empty() or time.monotonic() - self._ended < QUIET
