"""The application of a server: its routes, errors as JSON, guarded."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from dense_ctx.errors import DenseCtxError, cause_of
from dense_ctx.gateway import translated

from .guard import MAX_BODY, Guard
from .refusals import Refusal, as_json, status_of


def application(
    routes: Sequence[Route],
    document: str,
    leave: Callable[[], None],
    hosts: frozenset[str],
    addresses: bool = False,
    token: str | None = None,
    limits: Mapping[str, int] | None = None,
    largest: int = MAX_BODY,
    log: bool = False,
) -> Guard:
    """The ASGI application of some routes.

    Args:
        document: that lists the routes, for messages. leave: called when the server ends.
        hosts, addresses, token, limits, largest: as for `Guard`.
        log: print refusals to stderr, for servers whose clients do not show them.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        leave()

    def answer(request: Request, error: DenseCtxError) -> JSONResponse:
        if log:
            print(f"{request.method} {request.url.path[:200]}: {cause_of(error)}", file=sys.stderr, flush=True)
        return JSONResponse(as_json(error), status_of(error))

    async def known(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, DenseCtxError)
        return answer(request, error)

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        route = f"{request.method} {request.url.path[:200]}"
        refusal = Refusal(route, f"a route of {document}", "correct method and path", error.status_code)
        response = answer(request, refusal)
        response.headers.update(error.headers or {})
        return response

    async def unknown(request: Request, error: Exception) -> JSONResponse:
        ours = translated(error, f"{request.method} {request.url.path}")
        if ours is not None:
            return answer(request, ours)
        warnings.warn(f"{request.method} {request.url.path}: {cause_of(error)}", stacklevel=1)
        body: dict[str, Any] = {"type": type(error).__name__, "message": cause_of(error)}
        body |= {"given": str(request.url.path), "expected": "an answer", "next": "report it: a fault of the server"}
        return JSONResponse({"error": body}, 500)

    app = Starlette(
        routes=routes,
        exception_handlers={DenseCtxError: known, HTTPException: http, Exception: unknown},
        lifespan=lifespan,
    )
    return Guard(app, hosts, addresses, token, limits, largest, log)
