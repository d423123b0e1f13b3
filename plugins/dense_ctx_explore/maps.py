"""Handlers: pictures of an item and of what the model makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from dense_ctx_http.requests import number, whole
from dense_ctx_http.worker import THUMBNAIL
from dense_ctx_labels.classes import is_background
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dense_ctx.interfaces import Size

from . import pictures
from .edits import checked_item
from .requests import desk_of, run, session_of, side_of, urgency_of

CACHED = {"cache-control": "private, max-age=86400"}


async def picture(request: Request) -> Response:
    """The image itself as JPEG.

    Query:
        side: pixels of the longer side, 16 to 2048 (the image's own); the image is never enlarged.
    """
    desk, side = desk_of(request), side_of(request)
    item = checked_item(request.path_params["item"], desk.workspace.session.items)
    data = await run_in_threadpool(desk.photograph, item, side)
    return Response(data, media_type="image/jpeg", headers=CACHED)


async def labels(request: Request) -> Response:
    """The label map as PNG: a pixel is the id of its class, 255 without one; the palette has the classes' colours.

    Background and pixels without label are transparent. Thumbnails, of at most 256 pixels a side, wait behind others.

    Query:
        side: pixels of the longer side, 16 to 2048 (the image's own), of a map also above the image's. model: its
            place in the list of models (0).
    """
    workspace = desk_of(request).workspace

    def draw(session: Any, item: int, size: Size) -> bytes:
        clear = [c.id for c in workspace.session.classes if is_background(c.name)]
        return pictures.labels_png(session.labels(item, size), workspace.session.classes, clear)

    return await _png(request, draw)


async def uncertainty(request: Request) -> Response:
    """How uncertain the model is of each pixel, as PNG: transparent where it is certain, red where it is not.

    Query:
        side, model: as above.
    """

    def draw(session: Any, item: int, size: Size) -> bytes:
        return pictures.heat_png(session.uncertainty(item, size), 0.0, 1.0, fades=True)

    return await _png(request, draw)


async def pca(request: Request) -> Response:
    """The features' first three principal components as colours, PNG.

    Query:
        side, model: as above.
    """
    return await _png(request, lambda session, item, size: pictures.picture_png(session.pca(item, size)))


async def similarity(request: Request) -> Response:
    """How similar each pixel is to one pixel, of this or another item, as PNG: red where it is, transparent where not.

    The cosine of their features, from 0 to 1.

    Query:
        x, y: the pixel. of: the item that it is on (this one). side, model: as above.
    """
    workspace = desk_of(request).workspace
    here = request.path_params["item"]
    source = whole(request, "of", here, 0, 1 << 31)
    where = workspace.item(source)
    x, y = number(request, "x", None, 0, where.width - 1), number(request, "y", None, 0, where.height - 1)

    def draw(session: Any, item: int, size: Size) -> bytes:
        values = session.similarity(source, x, y, None if item == source else item, size)
        return pictures.heat_png(values, 0.0, 1.0, fades=True)

    return await _png(request, draw)


async def summary(request: Request) -> JSONResponse:
    """What a gallery shows of an item.

    Query:
        model: its place in the list of models (0).

    Returns:
        `{uncertainty, shares: {class id: share of the pixels}}`; `uncertainty` is the mean over the pixels.
    """
    workspace, session = desk_of(request).workspace, session_of(request)

    def facts() -> dict[str, Any]:
        number = request.path_params["item"]
        item = workspace.item(number)
        size = pictures.size_with(item.height, item.width, 128)
        ids, counts = np.unique(session.labels(number, size), return_counts=True)
        shares = {int(i): round(int(n) / (size[0] * size[1]), 4) for i, n in zip(ids, counts, strict=True) if i != 255}
        return {"uncertainty": round(float(session.uncertainty(number, size).mean()), 4), "shares": shares}

    return JSONResponse(await run(request, THUMBNAIL, facts))


async def _png(request: Request, draw: Callable[[Any, int, Size], bytes]) -> Response:
    workspace, session, side = desk_of(request).workspace, session_of(request), side_of(request)
    number = request.path_params["item"]
    item = workspace.item(number)
    size = pictures.size_with(item.height, item.width, side)
    data = await run(request, urgency_of(side), lambda: draw(session, number, size))
    return Response(data, media_type="image/png", headers={"dense-ctx-revision": str(workspace.revision)})
