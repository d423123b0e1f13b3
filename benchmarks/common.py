"""What benchmarks share: `--quick`, time in turns, memory of a process, and the check that both sides give the same."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def parse(parser: argparse.ArgumentParser, words: list[str] | None = None, **quick: Any) -> argparse.Namespace:
    """The command line, or `words`; with `--quick`, `quick` in place of the other defaults."""
    parser.add_argument(
        "--quick", action="store_true", help="tiny inputs, in seconds: that it runs and its sides agree, no figures"
    )
    arguments = sys.argv[1:] if words is None else words  # a VerbParser takes none from sys.argv
    args = parser.parse_args(arguments)
    if args.quick:
        parser.set_defaults(**quick)
        args = parser.parse_args(arguments)
    return args


def same(difference: float, limit: float, what: str) -> None:
    """End the benchmark before it prints a ratio of two sides that do not give the same."""
    if not difference <= limit:  # NaN too
        raise SystemExit(f"{what}: the sides differ by {difference:.1e}, more than {limit:.0e}; there is no ratio")


def in_turn(work: Mapping[str, Callable[[], Any]], rounds: int, cpu_seconds: bool = False) -> dict[str, list[float]]:
    """Seconds of each side in each round, A B A B ...: what slows the machine for a while falls on all of them."""
    clock = time.process_time if cpu_seconds else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds):
        for name in list(work)[:: 1 if number % 2 == 0 else -1]:
            began = clock()
            work[name]()
            seconds[name].append(clock() - began)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> str:
    """Median of the rounds' own ratios, their spread, and how loaded the machine was."""
    each = sorted(a / b for a, b in zip(slow, fast, strict=True))
    load = f"; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else ""
    return f"{statistics.median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f} in {len(each)} rounds{load})"


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


def _child(function: Callable[..., Any], arguments: tuple[Any, ...], pipe: Any, seconds: int | None) -> None:
    if seconds is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    pipe.send(function(*arguments))
    pipe.close()


def in_process(function: Callable[..., Any], *arguments: Any, seconds: int | None = None) -> Any:
    """Run `function(*arguments)` in a fresh process and return its result.

    Args:
        seconds: of the processors that it may take; None comes back where it needs more.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(function, arguments, theirs, seconds))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGXCPU:
            return None
        raise SystemExit(f"{function.__name__} died with exit code {process.exitcode}") from None
    finally:
        process.join()
