"""Run a plugin's code so that its failures do not affect the rest of the process."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from types import FrameType

from .errors import Interruption, PluginError, cause_of


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Run a plugin's code: whatever it raises becomes an Exception; working directory and warning filters are restored.

    A KeyboardInterrupt that the plugin raises is an error like any other; one that the user sends passes. What ends the
    process at once (`os._exit`, a crash in C code) cannot be contained: DENSE_CTX_SKIP_PLUGINS leaves the plugin out.

    Raises:
        PluginError: in place of SystemExit, GeneratorExit or another BaseException.
    """
    sent = False
    before = signal.getsignal(signal.SIGINT)
    watch = threading.current_thread() is threading.main_thread() and callable(before)

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal sent
        sent = True
        if callable(before):
            before(number, frame)

    if watch:
        signal.signal(signal.SIGINT, note)
    folder, filters = _folder(), list(warnings.filters)
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if sent or isinstance(error, Interruption):
            raise
        raise PluginError(cause_of(error)) from error
    finally:
        if watch:
            signal.signal(signal.SIGINT, before)
        if folder is not None and _folder() != folder:
            os.chdir(folder)
        strict = [item for item in warnings.filters if item[0] == "error" and item not in filters]
        if strict:  # a plugin that turns warnings into errors would break other code
            warnings.filters[:] = [item for item in warnings.filters if item not in strict]  # type: ignore[index]
            with warnings.catch_warnings():  # on exit it resets the cache of filters
                pass


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None
