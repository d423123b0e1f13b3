"""What handlers read of a request: numbers of its query, its body as JSON."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request

from .refusals import Refusal


def number(request: Request, name: str, default: float | None, low: float, high: float) -> float:
    """A number of the query, within bounds; refused otherwise. default: None where it must be given."""
    text = request.query_params.get(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise Refusal(f"{name}={text!r:.40}", f"a number from {low:g} to {high:g}", f"set {name}")
    return value


def whole(request: Request, name: str, default: int | None, low: int, high: int) -> int:
    """A whole number of the query, as `number`."""
    value = number(request, name, default, low, high)
    if value != int(value):
        raise Refusal(f"{name}={value}", "a whole number", f"set {name}")
    return int(value)


async def body_of(request: Request) -> Any:
    """The request's body as JSON; refused unless it says that it is."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refusal(
            f"Content-Type: {request.headers.get('content-type', 'none')[:60]}", "application/json", "send JSON", 415
        )
    data = await request.body()
    try:
        return json.loads(data or b"null", parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refusal("a body that is not JSON", "one JSON object", f"correct it ({error!s:.80})", 400) from None


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")
