"""Propagation: labels carried along a clip, frame by frame, between the other calls of a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from dense_ctx_http.refusals import Refusal
from dense_ctx_http.worker import LATER, Worker

from dense_ctx.errors import DenseCtxError, cause_of

from .workspace import Workspace


class Propagation:
    """One run at a time. Each frame is a call of its own to the worker, so that strokes and views go first.

    A correction ends a run: from there on its frames would be those of other labels; the next run begins at it.

    Args:
        workspace, worker: whose sessions it runs.
        changed: called after each frame, from the worker's thread.
    """

    def __init__(self, workspace: Workspace, worker: Worker, changed: Callable[[], None]) -> None:
        self.workspace, self.worker, self.changed = workspace, worker, changed
        self._runs: list[Iterator[Any]] = []
        self._revision = 0
        self.done, self.total, self.error = 0, 0, ""

    @property
    def running(self) -> bool:
        """Whether there are frames to come."""
        return bool(self._runs)

    def state(self) -> dict[str, Any]:
        """{running, done, total, error}; done and total: frames, of all models. error: why a run ended early."""
        return {"running": self.running, "done": self.done, "total": self.total, "error": self.error}

    def start(self, start: int | None, stop: int | None) -> None:
        """Begin a run over the frames from `start` up to, not with, `stop`; called by the worker.

        Raises:
            Refusal: not a clip, or a run goes on. InputError: as `Session.propagate`.
        """
        session = self.workspace.session
        if not session.is_clip:
            raise Refusal("propagate, of images", "the frames of a clip", "predictions of images need none", 409)
        if self.running:
            raise Refusal("a second run", "one at a time", "stop the first: DELETE /api/propagate", 409)
        self._runs = [each.propagate(start, stop) for each in self.workspace.sessions]
        first, last = start or 0, len(session.items) if stop is None else stop
        frames = [frame for each in self.workspace.sessions for frame in each.pending() if first <= frame < last]
        self.done, self.total, self.error = 0, len(frames), ""
        self._revision = self.workspace.revision
        self.worker.submit(LATER, self._step)

    def stop(self) -> None:
        """End the run; what it labelled stays. Called by the worker."""
        self._runs = []
        self.changed()

    def _step(self) -> None:
        if not self._runs:
            return
        if self.workspace.revision != self._revision:
            self.error = "stopped by an edit: propagate again"
            return self.stop()
        try:
            if next(self._runs[0], self) is self:
                self._runs.pop(0)
            else:
                self.done += 1
        except DenseCtxError as error:
            self.error, self._runs = cause_of(error), []
        except BaseException:
            self._runs = []
            raise
        self.changed()
        if self._runs:
            self.worker.submit(LATER, self._step)
