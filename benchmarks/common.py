"""Time and memory of one function in a process of its own."""

from __future__ import annotations

import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def machine() -> str:
    import torch

    return (
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )


def peak_mb() -> float:
    """The most memory this process has had, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def reset_peak() -> float:
    """The memory this process has now, in MB; on Linux, `peak_mb_since` counts from here."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return peak_mb()


def peak_mb_since() -> float:
    """The most memory since `reset_peak` (elsewhere than on Linux: ever), in MB."""
    try:
        return _status("VmHWM")
    except OSError:
        return peak_mb()


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(key + ":"))


def _child(function: Callable[..., Any], arguments: tuple[Any, ...], pipe: Any) -> None:
    pipe.send(function(*arguments))
    pipe.close()


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run `function(*arguments)` in a fresh process and return its result."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(function, arguments, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit(f"{function.__name__} died with exit code {process.exitcode}") from None
    finally:
        process.join()


def median_seconds(function: Callable[[], Any], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
