"""Errors of the HTTP interface, as JSON: what was given, what was expected, what to do next."""

from __future__ import annotations

from typing import Any

from dense_ctx.errors import (
    ConfigError,
    DenseCtxError,
    FileError,
    InputError,
    MemoryBudgetError,
    NotFittedError,
    UnknownNameError,
    shortened,
)

STATUS: dict[type[DenseCtxError], int] = {
    InputError: 422, ConfigError: 422, UnknownNameError: 404, NotFittedError: 409, FileError: 507,
    MemoryBudgetError: 507,
}  # fmt: skip


class Refusal(InputError):
    """A request that is not answered as asked. status: of HTTP."""

    def __init__(self, given: str, expected: str, next: str, status: int = 422) -> None:
        super().__init__(f"{given}; expected {expected}: {next}")
        self.given, self.expected, self.next, self.status = shortened(given, 300), expected, next, status


def status_of(error: DenseCtxError) -> int:
    """The status of HTTP for an error: 4xx for what the client can change, 507 for a file or memory, else 500."""
    if isinstance(error, Refusal):
        return error.status
    return next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)


def as_json(error: DenseCtxError) -> dict[str, Any]:
    """The error's body. type: the class; message: one line; given, expected, next: its three parts.

    An error of the library has its three parts in one sentence, which `given` repeats.
    """
    parts = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, Refusal):
        return {"error": {**parts, "given": error.given, "expected": error.expected, "next": error.next}}
    if isinstance(error, NotFittedError):
        expected, what = "annotation of two classes", "annotate them"
    elif status_of(error) == 507:
        expected, what = "files that can be read and written", "do what the message says, and try again"
    else:
        expected, what = "a request that can be answered", "do what the message says"
    return {"error": {**parts, "given": str(error), "expected": expected, "next": what}}
