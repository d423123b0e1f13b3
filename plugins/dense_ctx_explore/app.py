"""The application of the page: its files, its routes."""

from __future__ import annotations

import importlib.resources

from dense_ctx_http.app import application as guarded
from dense_ctx_http.guard import Guard
from dense_ctx_http.refusals import Refusal
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .requests import Desk
from .routes import ENDPOINTS

TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
LIMITS = {"/api/import": 256 << 20}  # bytes of labels that come back


def application(desk: Desk, hosts: frozenset[str], addresses: bool = False, token: str | None = None) -> Guard:
    """The ASGI application of a desk; hosts, addresses and token as for `Guard`."""
    files = _page_files()

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in files:
            raise Refusal(f"/page/{name[:80]}", "a file of the page", "open /", 404)
        kind = TYPES[name[name.rindex(".") :]]
        return Response(files[name], media_type=kind, headers={"cache-control": "no-cache"})

    routes = [Route(point.path, point.handler, methods=[point.method]) for point in ENDPOINTS]
    routes = [Route("/", page), Route("/page/{name}", page), *routes]
    app = guarded(routes, "docs/http_api.md", desk.leave, hosts, addresses, token, LIMITS)
    app.app.state.desk = desk
    return app


def _page_files() -> dict[str, bytes]:
    """The files of the page in the package; nothing else is read for a request to /page."""
    folder = importlib.resources.files("dense_ctx_explore") / "page"
    return {file.name: file.read_bytes() for file in folder.iterdir() if "." + file.name.rpartition(".")[2] in TYPES}
