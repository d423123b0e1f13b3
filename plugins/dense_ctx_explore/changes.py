"""Handlers: the state, edits and what follows from them."""

from __future__ import annotations

from typing import Any

import numpy as np
from dense_ctx_http.refusals import Refusal
from dense_ctx_http.requests import body_of, number, whole
from dense_ctx_http.worker import EDIT, VIEW
from starlette.requests import Request
from starlette.responses import JSONResponse

from .requests import desk_of, run, session_of

MAX_WAIT = 60.0


async def state(request: Request) -> JSONResponse:
    """What there is: identity, revision, models, classes, items with status and number of strokes, propagation, tick.

    Returns:
        `{identity, revision, tick, models: [name], clip, classes: [{id, name, colour}], items: [{name, width, height,
        status, strokes}], propagation: {running, done, total, error}}`. `identity` is the same as long as the server
        shows the same images from the same folder.
    """
    desk = desk_of(request)
    facts = await run(request, EDIT, desk.workspace.state)
    return JSONResponse({**facts, "tick": desk.tick, "propagation": desk.propagation.state()})


async def wait(request: Request) -> JSONResponse:
    """Answers when something has changed since `since`, or after `wait` seconds: for other tabs, and for progress.

    Query:
        since: the tick last seen. wait: seconds, at most 60 (25).

    Returns:
        `{tick, revision, propagation}`. With another revision than before, labels and state are others too.
    """
    desk = desk_of(request)
    since, seconds = whole(request, "since", None, 0, 1 << 52), number(request, "wait", 25, 0, MAX_WAIT)
    tick = await desk.wait(since, seconds)
    answer = {"tick": tick, "revision": desk.workspace.revision, "propagation": desk.propagation.state()}
    return JSONResponse(answer)


async def edit(request: Request) -> JSONResponse:
    """Makes one edit, once: an edit that is sent again under its `id` is answered as before and not made twice.

    Body:
        `{id, edit, ...}`, the edits below. `id`: 8 to 64 letters, digits and dashes of the client's choice.

    Returns:
        `{id, revision, result}`: `result` is the id of an added class; the items whose strokes undo or redo changed.
        The edit is on the server's disk by then.
    """
    body, desk = await body_of(request), desk_of(request)
    answer = await run(request, EDIT, lambda: desk.workspace.apply(body))
    desk.changed()
    return JSONResponse(answer)


async def strokes(request: Request) -> JSONResponse:
    """The strokes on an item, oldest first.

    Returns:
        `{strokes: [{class, points: [[x, y]], radius}]}`, pixels of the image; `class` is null for the eraser.
    """
    desk, item = desk_of(request), request.path_params["item"]

    def rows() -> list[dict[str, Any]]:
        desk.workspace.item(item)
        return [_row(stroke) for stroke in desk.workspace.session.strokes(item)]

    return JSONResponse({"strokes": await run(request, EDIT, rows)})


def _row(stroke: Any) -> dict[str, Any]:
    points = np.asarray(stroke.points, dtype=float).round(2).tolist()
    return {"class": stroke.class_id, "points": points, "radius": float(stroke.radius)}


async def next_item(request: Request) -> JSONResponse:
    """The item whose strokes would teach the model most, by its session's active selection.

    Query:
        model: its place in the list of models (0).

    Returns:
        `{item}`.
    """
    session = session_of(request)
    return JSONResponse({"item": int(await run(request, VIEW, session.next_item))})


async def propagate(request: Request) -> JSONResponse:
    """Begins to carry labels along the clip; `GET /api/changes` tells how far it is. An edit ends it.

    Body:
        `{start, stop}`: frames, `stop` not included; null for the first and the end.

    Returns:
        `{propagation}`; 409 while another runs, or if there is no clip.
    """
    body, desk = await body_of(request), desk_of(request)
    body = {} if body is None else body
    count = len(desk.workspace.session.items)
    for name in ("start", "stop"):
        value = body.get(name) if isinstance(body, dict) else False
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= count):
            raise Refusal(f"{name}={value!r:.40}", f"a frame, 0 to {count}, or null", "choose one")
    await run(request, EDIT, lambda: desk.propagation.start(body.get("start"), body.get("stop")))
    desk.changed()
    return JSONResponse({"propagation": desk.propagation.state()})


async def stop(request: Request) -> JSONResponse:
    """Ends the propagation that runs; the frames that have labels keep them.

    Returns:
        `{propagation}`.
    """
    desk = desk_of(request)
    await run(request, EDIT, desk.propagation.stop)
    return JSONResponse({"propagation": desk.propagation.state()})
