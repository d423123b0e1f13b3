"""The application: the routes of the tools' protocols."""

from __future__ import annotations

from dense_ctx_http.app import application as guarded
from dense_ctx_http.guard import Guard
from starlette.routing import Route

from . import anylabeling, studio, video
from .desk import Desk
from .studio import Studio

LARGEST = 8 << 20  # bytes of a body
LIMITS = {  # of those that bring pictures, clips, or brush masks of many regions
    "/v1/predict": 128 << 20, "/v1/video/init": 1 << 30, "/predict": 256 << 20, "/webhook": 256 << 20,
}  # fmt: skip


def application(
    desk: Desk, projects: Studio | None, hosts: frozenset[str], addresses: bool = False, token: str | None = None
) -> Guard:
    """The ASGI application of a desk and of a Label Studio; hosts, addresses and token as for `Guard`."""
    routes = [
        Route("/health", studio.health),
        Route("/setup", studio.setup, methods=["POST"]),
        Route("/predict", studio.predict, methods=["POST"]),
        Route("/webhook", studio.webhook, methods=["POST"]),
        Route("/v1/models", anylabeling.models),
        Route("/v1/predict", anylabeling.predict, methods=["POST"]),
        Route("/v1/video/init", video.init, methods=["POST"]),
        Route("/v1/video/prompt", video.prompt, methods=["POST"]),
        Route("/v1/video/propagate/stream", video.propagate, methods=["POST"]),
        Route("/v1/video/cleanup/{session}", video.cleanup, methods=["POST"]),
    ]
    app = guarded(routes, "docs/tools.md", desk.leave, hosts, addresses, token, LIMITS, LARGEST, log=True)
    app.app.state.desk, app.app.state.studio = desk, projects
    app.app.state.clips = clips = video.Clips()
    desk.at_end(clips.close)
    return app
