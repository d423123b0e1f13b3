"""Write docs/http_api.md from the routes of `dense-ctx explore`: python docs/make_http_api.py. A test compares them."""

from __future__ import annotations

import inspect
from pathlib import Path

from dense_ctx_explore import app, edits
from dense_ctx_explore.routes import ENDPOINTS
from dense_ctx_http import guard

FILE = Path(__file__).with_name("http_api.md")
INTRODUCTION = """\
# HTTP interface of `dense-ctx explore`

<!-- Written by docs/make_http_api.py from the routes and their docstrings: change those, and run it again. -->

What [the page](explore.md) speaks, and anything else may. Bodies and answers are JSON unless something else is said; a
body says so: `Content-Type: application/json`. Items, models and frames are named by their places in the lists of
`GET /api/state`, from 0 on; classes by their ids.

```bash
curl localhost:8765/api/state
curl -X POST localhost:8765/api/edits -H 'Content-Type: application/json' \\
    -d '{{"id": "a-stroke", "edit": "stroke", "item": 0, "class": 1, "points": [[120, 80], [140, 90]], "radius": 6}}'
curl 'localhost:8765/api/items/0/labels?side=1024' --output labels.png
```

## Who is answered

- `Host` must be `localhost`, `127.0.0.1` or `[::1]`, and with `--host` that name, this machine's, or an IP address:
  a name that an attacker's DNS points here is refused. `Origin`, where a browser sends it, must be this server; so must
  `Sec-Fetch-Site`.
- With `--token`, or a `--host` that other machines reach, each request shows the token: `Authorization: Bearer TOKEN`,
  `Token: TOKEN`, the password of `Authorization: Basic`, or the cookie that `/?token=TOKEN` sets.
- A body has at most {edit:,} bytes, that of `/api/import` {labels:,}.
- Only the items that the server was started with can be read; no request names a file.

## Errors

`{{"error": {{type, message, given, expected, next}}}}` with a status of 400 to 422 for what the client can change, 401
and 403 for who is not answered, 413 for a body that is too large, 507 where the disk is full or a file cannot be read,
and 500 for faults of the server. `given` is what came, `expected` what would have been right, `next` what to do;
`message` is all of it in one line.

## Edits

One route takes all of them: `POST /api/edits` with `{{id, edit, ...}}`, and these fields. Those in brackets may be left
out.

| `edit` | fields |
|---|---|
{edits}

- `points`: 1 to {points:,} of `[x, y]`, pixels of the image, (0, 0) the corner of the first one; none outside of it.
  `radius`: 0.5 to {radius:g} pixels, and at most the image's longer side. `class`: an id, or null to erase.
- `extends`: the id of the last edit, a stroke, which this one replaces: a stroke that is still being drawn is sent in
  longer and longer versions. Where something else came in between, the answer is 409: send it without.
- `status`: `"accepted"`, `"rejected"` or null. `colour`: `"#rrggbb"`.
- `undo` and `redo` are those of the session: all pages share them.

## Routes
"""


def page() -> str:
    """The text of docs/http_api.md."""
    rows = "\n".join(
        f"| `{name}` | {', '.join(f'`{f}`' for f in fields) or 'none'} |" for name, fields in edits.FIELDS.items()
    )
    head = INTRODUCTION.format(
        edit=guard.MAX_BODY,
        labels=app.LIMITS["/api/import"],
        edits=rows,
        points=edits.MAX_POINTS,
        radius=edits.MAX_RADIUS,
    )
    return "\n".join([head, *(section(point) for point in ENDPOINTS)])


def section(point: object) -> str:
    """One route: its heading, and the docstring of its handler with the sections as a list."""
    method, path, handler = point.method, point.path, point.handler  # type: ignore[attr-defined]
    text: list[str] = []
    for line in (inspect.getdoc(handler) or "").splitlines():
        name = line.rstrip(":")
        if line.endswith(":") and name in ("Query", "Body", "Returns"):
            text.append(f"- {'Answer' if name == 'Returns' else name}:")
        else:
            text.append(line if not line.startswith("    ") else f"  {line.strip()}")
    return "\n".join([f"### {method} {path.replace(':int', '')}", "", *text, ""])


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8", newline="\n")
