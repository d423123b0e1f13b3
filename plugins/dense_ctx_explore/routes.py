"""The routes of the HTTP interface. docs/http_api.md is written from this table and the docstrings of its handlers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from . import changes, maps
from . import labels as label_routes

Handler = Callable[[Any], Awaitable[Any]]


@dataclass(frozen=True)
class Endpoint:
    """A method and a path; its handler, whose docstring is its documentation."""

    method: str
    path: str
    handler: Handler


ENDPOINTS = (
    Endpoint("GET", "/api/state", changes.state),
    Endpoint("GET", "/api/changes", changes.wait),
    Endpoint("POST", "/api/edits", changes.edit),
    Endpoint("GET", "/api/items/{item:int}/picture", maps.picture),
    Endpoint("GET", "/api/items/{item:int}/strokes", changes.strokes),
    Endpoint("GET", "/api/items/{item:int}/labels", maps.labels),
    Endpoint("GET", "/api/items/{item:int}/uncertainty", maps.uncertainty),
    Endpoint("GET", "/api/items/{item:int}/pca", maps.pca),
    Endpoint("GET", "/api/items/{item:int}/similarity", maps.similarity),
    Endpoint("GET", "/api/items/{item:int}/summary", maps.summary),
    Endpoint("GET", "/api/next", changes.next_item),
    Endpoint("POST", "/api/propagate", changes.propagate),
    Endpoint("DELETE", "/api/propagate", changes.stop),
    Endpoint("GET", "/api/formats", label_routes.formats),
    Endpoint("POST", "/api/export", label_routes.export),
    Endpoint("GET", "/api/exports/{name}", label_routes.download),
    Endpoint("POST", "/api/import", label_routes.labels_in),
)
