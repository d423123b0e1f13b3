"""Run a plugin's code, and import optional packages, so that failures do not affect the rest of the process."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

from .errors import Interruption, MissingDependencyError, PluginError, cause_of


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


def optional_package(module: str, what: str, install: str) -> Any:
    """Import a package that not every installation has, at its first use.

    Args:
        what: needs it, for messages. install: what pip is told to install.

    Raises:
        MissingDependencyError: it is not installed. PluginError: it fails at import.
    """
    try:
        with contained():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"{what} needs the package {error.name!r}: pip install {install}") from error
    except Exception as error:
        raise PluginError(broken_package(f"{what} needs {module}, which", error, install)) from error


def broken_package(what: str, error: Exception, install: str) -> str:
    """The message for an installed package that cannot be imported."""
    return f"{what} fails at import ({cause_of(error)}). Install it again: pip install --force-reinstall {install}"


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None
