"""The application: routes, the page's files, errors as JSON, guarded."""

from __future__ import annotations

import contextlib
import importlib.resources
import warnings
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dense_ctx.errors import DenseCtxError, cause_of
from dense_ctx.gateway import translated

from .guard import Guard
from .refusals import Refusal, as_json, status_of
from .requests import Desk
from .routes import ENDPOINTS

TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def application(desk: Desk, hosts: frozenset[str], addresses: bool = False, token: str | None = None) -> Guard:
    """The ASGI application of a desk; hosts, addresses and token as for `Guard`."""
    files = _page_files()

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in files:
            raise Refusal(f"/page/{name[:80]}", "a file of the page", "open /", 404)
        kind = TYPES[name[name.rindex(".") :]]
        return Response(files[name], media_type=kind, headers={"cache-control": "no-cache"})

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        desk.leave()

    routes = [Route(point.path, point.handler, methods=[point.method]) for point in ENDPOINTS]
    app = Starlette(
        routes=[Route("/", page), Route("/page/{name}", page), *routes],
        exception_handlers={DenseCtxError: _known, HTTPException: _http, Exception: _unknown},
        lifespan=lifespan,
    )
    app.state.desk = desk
    return Guard(app, hosts, addresses, token)


def _page_files() -> dict[str, bytes]:
    """The files of the page in the package; nothing else is read for a request to /page."""
    folder = importlib.resources.files("dense_ctx_explore") / "page"
    return {file.name: file.read_bytes() for file in folder.iterdir() if "." + file.name.rpartition(".")[2] in TYPES}


async def _known(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DenseCtxError)
    return JSONResponse(as_json(error), status_of(error))


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    given = f"{request.method} {request.url.path[:200]}"
    refusal = Refusal(given, "a route of docs/http_api.md", "correct method and path", error.status_code)
    return JSONResponse(as_json(refusal), error.status_code, headers=error.headers)


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    ours = translated(error, f"{request.method} {request.url.path}")
    if ours is not None:
        return JSONResponse(as_json(ours), status_of(ours))
    warnings.warn(f"{request.method} {request.url.path}: {cause_of(error)}", stacklevel=1)
    body: dict[str, Any] = {"type": type(error).__name__, "message": cause_of(error), "given": str(request.url.path)}
    return JSONResponse({"error": {**body, "expected": "an answer", "next": "report it: a fault of the server"}}, 500)
