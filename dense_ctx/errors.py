"""The library's exceptions, under one base class.

Messages say what was given, what was expected and what to do next. Each class also derives from the built-in
exception a caller would expect (`ValueError`, `FileNotFoundError`), so existing `except` clauses keep working.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator


class DenseCtxError(Exception):
    """Base class of every exception that dense_ctx raises."""


class InputError(DenseCtxError, ValueError):
    """An argument has the wrong type, shape, dtype, range or content (NaN, all ignored)."""


class FileError(DenseCtxError, OSError):
    """A file or folder is missing, unreadable, corrupt or cannot be written."""


class UnknownNameError(DenseCtxError, KeyError):
    """No part of this kind is registered under this name. hint: the similar names, as in the message."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:  # KeyError would print the message's repr, with its newlines escaped
        return str(self.args[0]) if self.args else ""


class PluginError(DenseCtxError):
    """A plugin failed; the message names the plugin, its distribution, its version and the cause."""


class MissingDependencyError(PluginError, ImportError):
    """A registered part needs a package that is not installed; the message has the install command."""


class ConfigError(DenseCtxError, ValueError):
    """A configuration has an unknown key, a missing key or a value of the wrong type."""


class CheckpointError(DenseCtxError):
    """A checkpoint is damaged, incomplete, of a newer format, or does not match the model it names."""


class WeightsError(DenseCtxError):
    """Pretrained weights are unavailable (no network, no access) or do not match the network."""


class MemoryBudgetError(DenseCtxError, MemoryError):
    """The result does not fit into the memory budget; the message gives a sufficient one."""


class NonFiniteError(DenseCtxError, ArithmeticError):
    """A result is NaN or infinite: features, a prediction, a loss, weights; the message names it."""


class StoppedError(DenseCtxError):
    """A training run was stopped by a signal after saving its state; `signal` is the signal's number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class NotFittedError(DenseCtxError, RuntimeError):
    """predict was called before fit."""


class ContractError(DenseCtxError, AssertionError):
    """A part breaks a clause of its interface's contract (`dense_ctx.testing`); `clause` names the clause."""

    def __init__(self, clause: str, message: str) -> None:
        super().__init__(f"[{clause}] {message}")
        self.clause = clause


class Interruption(KeyboardInterrupt):
    """SIGTERM or SIGINT was received; no Exception, so that no handler of errors catches it. `signal`: its number."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


class PluginWarning(UserWarning):
    """A plugin was skipped; the others are unaffected."""


def refuse_idle(cases: Iterable[tuple[bool, str, str]]) -> None:
    """Refuse an argument that would have no effect.

    Args:
        cases: whether an argument is set without effect, its name, and the reason: "with gamma=0".

    Raises:
        ConfigError: names the first one.
    """
    for idle, name, reason in cases:
        if idle:
            raise ConfigError(f"{name} would have no effect {reason}: leave it out")


@contextlib.contextmanager
def about(what: object) -> Iterator[None]:
    """Prefix the messages of dense_ctx's errors in the block with their subject."""
    try:
        yield
    except (InputError, FileError, NonFiniteError) as error:
        raise type(error)(f"{what}: {error}") from error


def shortened(text: str, length: int) -> str:
    """The text, or its beginning and how long it is."""
    return text if len(text) <= length else f"{text[: max(1, length - 20)]}... ({len(text)} letters)"


def cause_of(error: BaseException) -> str:
    """An exception in one line of at most 600 letters: type and message; of a DenseCtxError the message alone."""
    try:
        text = " ".join(str(error).split())
    except BaseException:  # a third party's __str__ may raise anything
        text = "(its message cannot be printed)"
    own = isinstance(error, DenseCtxError)
    return shortened(text if own else f"{type(error).__name__}: {text}".rstrip(": "), 600)
