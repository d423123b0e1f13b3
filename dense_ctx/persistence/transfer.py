"""Retries of downloads from the Hub within a time budget; without a network they fail at once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

BUDGET = 50.0  # seconds, from the first failure to the last attempt
_LONGEST = 4.0  # seconds between two attempts
# Names of errors, as the Hub's client has changed its HTTP library twice
_UNREACHABLE = ("ConnectError", "NewConnectionError", "NameResolutionError", "ConnectionRefusedError", "gaierror")
_CUT = ("TransportError", "ProtocolError", "ConnectionError", "TimeoutError", "Timeout", "ChunkedEncodingError")
_BUSY = (408, 425, 429, 500, 502, 503, 504)


def persevere(work: Callable[[], T], budget: float = BUDGET) -> T:
    """Retry `work` after lost connections and busy servers, with exponential, jittered waits.

    Args:
        budget: seconds within which attempts start.

    Raises:
        Exception: of the last attempt: at once if a retry cannot help, after one retry if no server can be reached.
    """
    wait, unreachable, end = 0.25, 0, time.monotonic() + budget
    while True:
        try:
            return work()
        except Exception as error:
            unreachable += _is(error, _UNREACHABLE)
            transient = _is(error, (*_UNREACHABLE, *_CUT)) or _busy(error)
            hopeless = unreachable > 1 or not transient or _is(error, ("OfflineModeIsEnabled",))
            pause = wait * random.uniform(0.5, 1.5)  # processes that fail together should not retry together
            if hopeless or time.monotonic() + pause > end:
                raise
        time.sleep(pause)
        wait = min(_LONGEST, wait * 2)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is(error: Exception, names: tuple[str, ...]) -> bool:
    return any(kind.__name__ in names for each in _chain(error) for kind in type(each).__mro__)


def _busy(error: Exception) -> bool:
    """Whether a server is, or has sent an incomplete file."""
    answers = [(getattr(getattr(each, "response", None), "status_code", None), str(each)) for each in _chain(error)]
    return any(status in _BUSY or "Consistency check failed" in text for status, text in answers)
