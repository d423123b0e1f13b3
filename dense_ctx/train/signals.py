"""Stop a run on SIGINT or SIGTERM after the current step."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

_ECHO = 1.0  # seconds; a second SIGINT within it is ignored: launchers forward the terminal's own


class Signals:
    """Context manager that records the first SIGINT or SIGTERM in `received` (0: none); a second SIGINT interrupts."""

    def __init__(self) -> None:
        self.received, self._when = 0, 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers in the main thread alone
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received and number == signal.SIGINT and now - self._when > _ECHO:
            raise KeyboardInterrupt
        if not self.received:
            self.received, self._when = number, now
