"""All cells of a benchmark, by one process or by several that meet in its folder."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dense_ctx.device import pick_device, processes
from dense_ctx.files import read_json, write_json
from dense_ctx.gateway import gateway
from dense_ctx.persistence.identity import require_equal

from .cells import run_cell
from .check import check_parts
from .plan import Bench, Cell

FORMAT = 1
ADVICE = "Choose another --out or remove the file"
_POLL = 0.2  # seconds
# the distributed environment that torchrun and `accelerate launch` set
_LAUNCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
           "SLURM_STEP_NUM_TASKS")  # fmt: skip

Report = Callable[[Cell, Mapping[str, Any]], object]


@gateway
def run_bench(
    bench: Bench,
    report: Report | None = None,
    begin: Callable[[Cell], object] | None = None,
    on_error: Callable[[Cell, BaseException], object] | None = None,
) -> list[dict[str, Any]]:
    """Run the cells that are not done; a failing cell is recorded as failed, and retried next time.

    The parts of all cells are checked before the first one runs. After that, an error fails only its own cell.

    Processes started by torchrun or `accelerate launch`, and the same command given on other machines that see the
    folder, share the cells: each free process takes the next one. The records are those of one
    process. The lock of a killed process is released, so that others take its cell over.

    Args:
        report: called with each cell this process ran and its record; the first process reports done cells, too.
        begin: called with each cell this process is about to run.
        on_error: called with each cell that fails here and its error, while the traceback is at hand.

    Returns:
        The records, in the order of `Bench.cells`; "status" is "done" or "failed". Each process has all of them.

    Raises:
        ConfigError, InputError, PluginError: of the parts, see `check_parts`; before any work.
        ConfigError: `out` holds a cell that was run with other settings.
        StoppedError: SIGINT or SIGTERM was received in training; the same command resumes.
    """
    check_parts(bench)
    first = processes()[0] == 0
    cells = list(bench.cells())
    paths = {cell.name: bench.out / "cells" / f"{cell.name}.json" for cell in cells}
    earlier = {name: _stamp(path) for name, path in paths.items()}
    records: dict[str, dict[str, Any]] = {}

    def has_record(cell: Cell) -> bool:
        """Whether the cell is done, or failed since this process began."""
        path = paths[cell.name]
        if not path.exists():
            return False
        record = read_json(path)
        require_equal(record["settings"], bench.settings(cell), f"{path} holds another cell", ADVICE)
        if record["status"] != "done" and _stamp(path) == earlier[cell.name]:
            return False
        records[cell.name] = record
        return True

    for cell in cells:  # of other settings: refused before any work
        if has_record(cell) and first and report is not None:
            report(cell, records[cell.name])
    while left := [cell for cell in cells if cell.name not in records]:
        free = [cell for cell in left if not has_record(cell)]
        outcomes = (_take(bench, cell, paths[cell.name], has_record, records, report, begin, on_error) for cell in free)
        if not any(outcomes) and free:
            time.sleep(_POLL)  # other processes run all remaining cells
    return [records[cell.name] for cell in cells]


def _take(
    bench: Bench,
    cell: Cell,
    path: Path,
    has_record: Callable[[Cell], bool],
    records: dict[str, dict[str, Any]],
    report: Report | None,
    begin: Callable[[Cell], object] | None,
    on_error: Callable[[Cell, BaseException], object] | None,
) -> bool:
    """Run the cell unless another process runs or has run it."""
    locks = bench.out / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(locks / path.stem, timeout=0):
            if has_record(cell):
                return True
            if begin is not None:
                begin(cell)
            device = pick_device(bench.device)
            with _alone():
                result = run_cell(bench, cell, on_error, device)
            record = {"format": FORMAT, "settings": bench.settings(cell), "process": processes()[0], **result}
            write_json(path, record)
    except Timeout:
        return False
    records[cell.name] = record
    if report is not None:
        report(cell, record)
    return True


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hide the distributed environment, so that a cell trains as a single process."""
    launch = {name: os.environ.pop(name) for name in _LAUNCH if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(launch)


def _stamp(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None
