"""Predict many files: resumable, in several processes; files that fail are skipped and reported."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from dense_ctx.errors import InputError, PluginError
from dense_ctx.progress import progress

from .batches import batches, results
from .outputs import QueryError, Writer
from .queries import Query

RECORD = "predictions.jsonl"
WriterFactory = Callable[[], Writer]  # picklable: each worker process creates its own writer
Outcome = dict[str, Any] | str  # what `Writer.write` returns, or the reason why the query was skipped


@dataclass
class Summary:
    """Result of a run: counts of new and earlier predictions, skipped files with reasons, wall time in seconds."""

    new: int = 0
    before: int = 0
    skipped: dict[Path, str] = field(default_factory=dict)
    without_depth: int = 0
    seconds: float = 0.0


class Record:
    """predictions.jsonl: one line per finished query, with the size and modification time of its file."""

    def __init__(self, out: Path) -> None:
        self.path, self.out = out / RECORD, out
        self.lines: dict[str, dict[str, Any]] = {}
        self.cut = False  # whether the last line lacks its line end
        if self.path.exists():
            text = self.path.read_text(encoding="utf-8", errors="replace")
            self.cut = bool(text) and not text.endswith("\n")
            for line in text.splitlines():
                try:
                    item = json.loads(line)
                    self.lines[item["name"]] = item
                except (ValueError, KeyError, TypeError):  # a line that a kill truncated: predict that query again
                    continue

    def done(self, query: Query, files: Sequence[Path]) -> bool:
        """Whether the query was predicted, its file is unchanged, and all its outputs exist."""
        item = self.lines.get(query.name)
        if item is not None and self._source(item) != os.path.abspath(query.path):
            return False  # another file of this name
        whole = all((self.out / file).exists() for file in files)
        enough = item is not None and {*_names(files)} <= {*item.get("files", ())}
        return item is not None and enough and whole and item.get("source") == _stamp(query)

    def require_free(self, query: Query) -> None:
        """Raise InputError where the outputs of a query are those of another file, which is still there."""
        item = self.lines.get(query.name)
        other = "" if item is None else self._source(item)
        if other != os.path.abspath(query.path) and os.path.exists(other):
            raise InputError(
                f"{self.out} has the prediction of {other} under the name {query.name}, and that of {query.path} would "
                "replace it: choose another --out, or give both to one command, in the same order each time"
            )

    def _source(self, item: dict[str, Any]) -> str:
        return os.path.abspath(os.path.join(self.out, str(item.get("path"))))

    def add(self, query: Query, stamp: list[int], files: Sequence[Path], notes: dict[str, Any]) -> None:
        """Record a finished query. stamp: its file's, from before it was read."""
        path = os.path.abspath(query.path)
        with suppress(ValueError):  # on another drive
            path = os.path.relpath(path, self.out)
        item = {"name": query.name, "path": path, "source": stamp, "files": _names(files), **notes}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(("\n" if self.cut else "") + json.dumps(item) + "\n")  # ASCII: a name may be no text
        self.cut = False
        self.lines[query.name] = item


def run(
    queries: Sequence[Query], writer: Writer, open_writer: WriterFactory | None = None, processes: int = 1
) -> Summary:
    """Predict and write the queries that are not finished yet.

    Args:
        writer: of this process.
        open_writer: creates the writer of a worker process; None: run in this process.
        processes: number of worker processes, at most.

    Raises:
        InputError: the outputs of a query would replace another file's. FileError: a file cannot be written.
        PluginError: a worker process was killed (probably out of memory).
    """
    began, summary, record = time.monotonic(), Summary(), Record(writer.out)
    for query in queries:
        record.require_free(query)
    todo = [query for query in queries if not record.done(query, writer.files(query))]
    summary.before = len(queries) - len(todo)
    stamps = {query: _stamp(query) for query in todo}  # not later: a file may change once it is read
    if open_writer is None or min(processes, len(todo)) <= 1:
        outcomes = _in_this_process(todo, writer)
    else:
        outcomes = _in_workers(todo, open_writer, processes)
    with progress(None, len(todo), "predict") as bar:
        for query, outcome in outcomes:
            if isinstance(outcome, str):
                summary.skipped[query.path] = outcome
                bar.write(f"skipped {query.path}: {outcome}", file=sys.stderr)
            else:
                record.add(query, stamps[query], writer.files(query), outcome)
                summary.new += 1
                summary.without_depth += bool(outcome.get("without_depth"))
            bar.update()
    summary.seconds = time.monotonic() - began
    return summary


def _in_this_process(queries: Sequence[Query], writer: Writer) -> Iterator[tuple[Query, Outcome]]:
    def read(query: Query) -> Any:
        try:
            return writer.read(query)
        except QueryError as error:  # of this query alone
            return error

    predictor = writer.predictor
    for some in batches(predictor.model, queries, read, predictor.room(writer.max_memory)):
        images = [image for _, image in some]
        predictions = results(images, predictor.predict, lambda image: None)
        for (query, image), prediction in zip(some, predictions, strict=True):
            yield query, _outcome(writer, query, image, prediction)


def _outcome(writer: Writer, query: Query, image: Any = None, prediction: Any = None) -> Outcome:
    try:
        if isinstance(image, QueryError):
            raise image
        return writer.write(query, image, prediction)
    except QueryError as error:
        return str(error)


_writer: list[Writer] = []  # the writer of a worker process


def _start(open_writer: WriterFactory, threads: int) -> None:
    import torch

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)  # half-written files are removed on the way out

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process terminates this one
    signal.signal(signal.SIGTERM, stop)
    torch.set_num_threads(threads)
    _writer.append(open_writer())


def _work(query: Query) -> Outcome:
    return _outcome(_writer[0], query)


def _in_workers(
    queries: Sequence[Query], open_writer: WriterFactory, processes: int
) -> Iterator[tuple[Query, Outcome]]:
    """Yield outcomes in order of completion; at most two queries per process are queued."""
    import torch

    processes = min(processes, len(queries))
    start = (open_writer, max(1, torch.get_num_threads() // processes))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start, initargs=start)
    running: dict[Future[Outcome], Query] = {}
    rest, before = iter(queries), set(multiprocessing.active_children())
    try:
        while True:
            while len(running) < 2 * processes and (query := next(rest, None)) is not None:
                running[pool.submit(_work, query)] = query
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise PluginError(
            "A worker process was killed, probably out of memory: run the command again with fewer --processes; "
            "finished predictions are kept"
        ) from error
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _stamp(query: Query) -> list[int]:
    """Size, modification time and number of a query's files: a file, or a folder of frames. [] of what is gone."""
    try:
        files = sorted(query.path.iterdir()) if query.path.is_dir() else [query.path]
        status = [os.stat(file) for file in files]
    except OSError:
        return []
    return [sum(item.st_size for item in status), max((item.st_mtime_ns for item in status), default=0), len(status)]


def _names(files: Sequence[Path]) -> list[str]:
    return [file.as_posix() for file in files]
