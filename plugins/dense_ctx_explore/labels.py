"""Handlers: labels to files of annotation tools, and back."""

from __future__ import annotations

from dense_ctx_http.refusals import Refusal
from dense_ctx_http.requests import body_of
from dense_ctx_http.worker import EDIT, LATER
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from . import transfer
from .requests import desk_of, run


async def formats(request: Request) -> JSONResponse:
    """The label formats.

    Returns:
        `{formats: [{name, title, reads, writes}]}`.
    """
    return JSONResponse({"formats": await run_in_threadpool(transfer.formats)})


async def export(request: Request) -> JSONResponse:
    """Writes the labels of all items to the folder `exports/NAME` below the server's `--save`.

    Body:
        `{format, model}`: a label format, with options in brackets (`coco(shape=polygon)`) that name no file; the
        model's place (0).

    Returns:
        `{name, folder, files}`; `GET /api/exports/NAME` downloads it.
    """
    body, desk = await body_of(request), desk_of(request)
    if not isinstance(body, dict) or not isinstance(body.get("model", 0), int):
        raise Refusal("an export of another form", "{format, model}", 'send {"format": "png"}')
    call = lambda: transfer.export(desk.workspace, body.get("format"), body.get("model", 0))  # noqa: E731
    return JSONResponse(await run(request, LATER, call))


async def download(request: Request) -> Response:
    """An export that was written, as a zip."""
    desk, name = desk_of(request), request.path_params["name"]
    data = await run_in_threadpool(transfer.packed, desk.workspace, name)
    headers = {"content-disposition": f'attachment; filename="{name}.zip"'}
    return Response(data, media_type="application/zip", headers=headers)


async def labels_in(request: Request) -> JSONResponse:
    """Takes labels from a file of an annotation tool, or a zip of several. They stand where strokes stood before.

    Classes go by their names, and those that are not there are added; images by their names.

    Query:
        name: of the file. format: of the labels (auto: the format that recognises them). unlabelled: what pixels
            without label are, background or ignore, where the format does not say.

    Body:
        the file, at most 256 MiB, as `application/octet-stream`.

    Returns:
        `{items, classes, missing}`: the items that have labels now, the classes, images that are not here.
    """
    if request.headers.get("content-type", "") != "application/octet-stream":
        kind = request.headers.get("content-type", "none")[:60]
        raise Refusal(f"Content-Type: {kind}", "application/octet-stream", "send the file itself", 415)
    desk, data = desk_of(request), await request.body()
    name, format = request.query_params.get("name", ""), request.query_params.get("format", "auto")
    unlabelled = request.query_params.get("unlabelled")
    if unlabelled not in (None, "background", "ignore"):
        raise Refusal(f"unlabelled={unlabelled:.40}", "background or ignore", "set one of them, or leave it out")
    answer = await run(request, EDIT, lambda: transfer.labels_in(desk.workspace, data, name, format, unlabelled))
    desk.changed()
    return JSONResponse(answer)
