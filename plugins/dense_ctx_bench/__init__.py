"""Benchmark grid: train and score every backbone x head x task x seed; summarise as a table."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dense_ctx.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from .plan import Bench, BenchTask, Cell
    from .report import page, plots
    from .run import run_bench
    from .table import markdown

_LAZY = {
    "Bench": "plan",
    "BenchTask": "plan",
    "Cell": "plan",
    "markdown": "table",
    "page": "report",
    "plots": "report",
    "run_bench": "run",
}

__all__ = [
    "Bench",
    "BenchTask",
    "Cell",
    "markdown",
    "page",
    "plots",
    "run_bench",
]


@hookimpl
def register_parts(register: Register) -> None:
    """Name the verb."""
    register("command", "bench", "dense_ctx_bench.command:BenchCommand")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
