"""What the handlers of routes share: the workspace behind a request, and what its query names."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from dense_ctx_http.requests import whole
from dense_ctx_http.worker import THUMBNAIL, VIEW, Worker
from starlette.requests import Request

from .pictures import photograph
from .propagation import Propagation
from .workspace import Workspace

T = TypeVar("T")
SMALL, LARGE = 256, 2048  # pixels of a longer side: of thumbnails; of the largest picture


class Desk:
    """Workspace, workers and propagation of one server, and the wait for changes.

    Attributes: front: runs edits and what a user looks at; back: thumbnails and propagation; tick: grows with every
        change.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.front = workspace, Worker()
        self.back = Worker(behind=self.front)
        self.propagation = Propagation(workspace, self.back, self.changed)
        self.tick, self.closed = 0, False
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._lock = threading.Lock()

    def changed(self) -> None:
        """Wake all that wait; from any thread."""
        with self._lock:
            self.tick += 1
            waiting = list(self._waiting)
        for loop, event in waiting:
            loop.call_soon_threadsafe(event.set)

    async def wait(self, tick: int, seconds: float) -> int:
        """The tick, when it is another one than `tick`, or after so many seconds."""
        entry = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            if self.tick != tick or self.closed:
                return self.tick
            self._waiting.add(entry)
        try:
            await asyncio.wait_for(entry[1].wait(), seconds)
        except asyncio.TimeoutError:
            pass
        finally:
            with self._lock:
                self._waiting.discard(entry)
        return self.tick

    def photograph(self, item: int, side: int | None) -> bytes:
        """An item's picture as JPEG; from any thread."""
        return photograph(self.workspace.session.picture(item), side)

    def leave(self) -> None:
        """Let no one wait any longer: the server ends."""
        self.closed = True
        self.changed()

    def close(self) -> None:
        """End the workers."""
        self.leave()
        self.front.stop()
        self.back.stop()


def desk_of(request: Request) -> Desk:
    """The desk of the server."""
    desk: Desk = request.app.state.desk
    return desk


async def run(request: Request, urgency: int, call: Callable[[], T]) -> T:
    """The result of a call by the worker that its urgency asks for."""
    desk = desk_of(request)
    return await (desk.front if urgency < THUMBNAIL else desk.back).run(urgency, call)


def side_of(request: Request) -> int | None:
    """The longer side that a picture is wanted in; None: as it is."""
    return whole(request, "side", None, 16, LARGE) if "side" in request.query_params else None


def urgency_of(side: int | None) -> int:
    """Thumbnails wait behind what is looked at."""
    return THUMBNAIL if side is not None and side <= SMALL else VIEW


def session_of(request: Request) -> Any:
    """The session of the model that the query names by its place, the first by default."""
    return desk_of(request).workspace.reader(whole(request, "model", 0, 0, 99))
