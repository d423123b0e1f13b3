"""A run's log: log.jsonl, and a progress bar or lines on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FileError
from ..files import MAX_JSON, read_text, write_text

NAME = "log.jsonl"


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a log.jsonl; an incomplete last line, of an interrupted run, is ignored.

    Raises:
        FileError: the file cannot be read.
    """
    rows = []
    for line in read_text(path, MAX_JSON).splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


class Log:
    """The log of a run, opened at its first step; rows of later steps, from an interrupted run, are removed.

    Args:
        out: folder of the run. start, steps: steps completed, and their total.
        batch_size: samples of a step, for the throughput. active: in the first process, the only one that writes.
    """

    def __init__(self, out: Path, start: int, steps: int, batch_size: int, active: bool) -> None:
        self.path, self.start, self.steps, self.batch_size = out / NAME, start, steps, batch_size
        self.active, self.began = active, time.monotonic()
        self.bar: Any = None
        self.file: Any = None
        if not active:
            return
        rows = [row for row in read_log(self.path) if row.get("step", 0) <= start]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))
        try:
            self.file = self.path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise FileError(f"Cannot write {self.path}: {error}") from error
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(initial=start, total=steps, unit="step", dynamic_ncols=True)

    def close(self) -> None:
        """Close the bar and the file."""
        for item in (self.bar, self.file):
            if item is not None:
                with contextlib.suppress(OSError):
                    item.close()

    def advance(self, step: int, loss: float) -> None:
        """Advance the progress bar by one step."""
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {loss:.4g}, {self.speed(step):.1f} samples/s", refresh=False)
            self.bar.update()

    def speed(self, step: int) -> float:
        """Samples per second over all processes, since this process started."""
        return (step - self.start) * self.batch_size / max(time.monotonic() - self.began, 1e-9)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row and flush it to disk.

        Raises:
            FileError: the file cannot be written (the disk is full, say).
        """
        if not self.active:
            return
        try:
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise FileError(f"Cannot write {self.path}: {error}") from error
        step = int(row["step"])
        scores = row.get("validation")
        if scores is not None:
            texts = [f"{name} {'not finite' if v is None else format(v, '.4f')}" for name, v in scores.items()]
            self.say(f"step {step}: " + ", ".join(texts))
        elif self.bar is None:
            remaining = (self.steps - step) * self.batch_size / max(self.speed(step), 1e-9)
            hours, minutes, seconds = int(remaining) // 3600, int(remaining) // 60 % 60, int(remaining) % 60
            self.say(
                f"step {step}/{self.steps}: loss {row['loss']:.4g}, {self.speed(step):.1f} samples/s, "
                f"{hours}:{minutes:02}:{seconds:02} left"
            )

    def say(self, text: str) -> None:
        """Print a line on stderr, above the bar."""
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        elif self.active:
            print(text, file=sys.stderr, flush=True)
