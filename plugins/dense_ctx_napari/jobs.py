"""Work beside the window: one job of a kind at a time, by napari's thread_worker, errors in our words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from napari.qt.threading import thread_worker

from dense_ctx.errors import DenseCtxError


@dataclass(frozen=True)
class Failure:
    """Why a job has no result, for the user."""

    message: str


class Jobs:
    """Runs one job at a time; what is asked for meanwhile comes next, and only the last of it.

    Other errors than those of dense_ctx and of memory are napari's to show, with their traceback.

    Args:
        done: takes the result of a job, or a Failure, in the window's thread.
        idle: called there when the last job is over.
    """

    def __init__(self, done: Callable[[Any], None], idle: Callable[[], None]) -> None:
        self._done, self._idle = done, idle
        self._worker: Any = None
        self._next: tuple[Callable[[], Any], dict[str, Any] | None] | None = None

    @classmethod
    def alone(cls, work: Callable[[], Any]) -> None:
        """Run a job for whose end nobody waits."""
        cls(lambda result: None, lambda: None).ask(work)

    @property
    def running(self) -> bool:
        """Whether a job runs."""
        return self._worker is not None

    def ask(self, work: Callable[[], Any], progress: dict[str, Any] | None = None) -> None:
        """Run `work` in a thread, now or after the one that runs.

        Args:
            work: its result goes to `done`; of an iterator each item does.
            progress: of napari's activity dock: {"desc": text, "total": steps, 0 where they are not known}.
        """
        if self.running:
            self._next = (work, progress)
            return
        worker = thread_worker(_guarded, progress=progress)(work)
        worker.yielded.connect(self._done)
        worker.finished.connect(self._finished)
        self._worker = worker
        worker.start()

    def stop(self) -> None:
        """End the job that runs at its next step, and forget the one that waits."""
        self._next = None
        if self._worker is not None:
            self._worker.quit()

    def _finished(self) -> None:
        self._worker = None
        if self._next is not None:
            work, progress = self._next
            self._next = None
            self.ask(work, progress)
        else:
            self._idle()


def _guarded(work: Callable[[], Any]) -> Iterator[Any]:
    try:
        result = work()
        if isinstance(result, Iterator):
            yield from result
        else:
            yield result
    except DenseCtxError as error:
        yield Failure(str(error))
    except MemoryError:
        yield Failure("There is not enough memory for this image: crop it, or close other layers")
