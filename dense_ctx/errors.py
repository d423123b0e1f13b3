"""Every error the library raises on purpose, under one base.

Messages say what was given, what was expected and what to do next. Classes also derive from the built-in
error a caller would expect (`ValueError`, `FileNotFoundError`), so existing `except` clauses keep working.
"""

from __future__ import annotations


class DenseCtxError(Exception):
    """Base of all errors raised by dense_ctx."""


class InputError(DenseCtxError, ValueError):
    """An argument has the wrong type, shape, dtype, range or content (NaN, all ignored)."""


class FileError(DenseCtxError, OSError):
    """A file or folder is missing, unreadable, corrupt or cannot be written."""


class UnknownNameError(DenseCtxError, KeyError):
    """No backbone, decoder, objective, probe, model or cue has this name."""

    def __str__(self) -> str:  # KeyError would print the message's repr, with its newlines escaped
        return str(self.args[0]) if self.args else ""


class PluginError(DenseCtxError):
    """A plugin failed; the message names the plugin, its distribution, its version and the cause."""


class MissingDependencyError(PluginError, ImportError):
    """A registered part needs a package that is not installed; the message has the install command."""


class ConfigError(DenseCtxError, ValueError):
    """A configuration has an unknown key, a missing key or a value of the wrong type."""


class CheckpointError(DenseCtxError):
    """A checkpoint is damaged, incomplete, of a newer format, or does not fit the model it names."""


class WeightsError(DenseCtxError):
    """Pretrained weights cannot be had or do not fit: no network, no access, wrong tensors."""


class MemoryBudgetError(DenseCtxError, MemoryError):
    """The result cannot be made within the memory asked for; the message says what would fit."""


class NonFiniteError(DenseCtxError, ArithmeticError):
    """A training loss or gradient is NaN or infinite; the message names the step, the tensor and the samples."""


class StoppedError(DenseCtxError):
    """A training run was stopped by a signal after saving its state; `signal` is the signal's number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class NotFittedError(DenseCtxError, RuntimeError):
    """predict was called before fit."""


class ContractError(DenseCtxError, AssertionError):
    """A part breaks a clause of its role's contract (`dense_ctx.testing`); `clause` is the clause's name."""

    def __init__(self, clause: str, message: str) -> None:
        super().__init__(f"[{clause}] {message}")
        self.clause = clause


class PluginWarning(UserWarning):
    """A plugin was skipped; everything else keeps working."""
