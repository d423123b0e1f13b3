"""Guard: what a request must show before it is answered: its host, its origin, its token, a body within bounds."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .refusals import Refusal, as_json

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

COOKIE = "dense_ctx_token"
MAX_BODY = 1 << 20  # bytes of a request's body
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
HEADERS = {
    b"content-security-policy": b"default-src 'self'; img-src 'self' blob: data:; "
    b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}


class Guard:
    """Wraps an ASGI application.

    A page of another site must not reach it: the name in `Host` must be one of ours (against DNS that is bound anew),
    and `Origin`, where a browser sends it, this server's.

    Args:
        app: the application.
        hosts: names that `Host` may have. addresses: whether any IP address may stand there too, which no attacker's
            DNS name is; for a server that other machines reach.
        token: asked for by `Authorization: Bearer`, as the password of `Authorization: Basic`, by `Token`, a cookie, or
            once `/?token=`, which sets the cookie; None: by none.
        limits: of some paths, bytes of a body. largest: of the other paths.
        log: print refusals to stderr.
    """

    def __init__(
        self,
        app: Any,
        hosts: frozenset[str],
        addresses: bool = False,
        token: str | None = None,
        limits: Mapping[str, int] | None = None,
        largest: int = MAX_BODY,
        log: bool = False,
    ) -> None:
        self.app, self.hosts, self.addresses, self.token = app, hosts, addresses, token
        self.limits, self.largest, self.log = limits or {}, largest, log

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it in JSON."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"a {scope['type']} is not spoken here")
        send = _with_headers(send)
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        try:
            self._check_site(scope, headers)
            if self.token is not None:
                if self._is_login(scope):
                    await _redirect(send, f"{_cookie(scope)}={self.token}; HttpOnly; SameSite=Strict; Path=/")
                    return
                self._check_token(headers, _cookie(scope))
            limit = self.limits.get(scope["path"], self.largest)
            length = headers.get("content-length", "0")
            if length.isdigit() and int(length) > limit:
                raise _too_large(length, limit)
        except Refusal as error:
            if self.log:
                print(f"{scope['method']} {scope['path'][:200]}: {error}", file=sys.stderr, flush=True)
            await _refuse(send, error)
            return
        await self.app(scope, _bounded(receive, limit), send)

    def _check_site(self, scope: Any, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:  # a bracket without another
            name = ""
        if name not in self.hosts and not (self.addresses and _is_address(name)):
            raise Refusal(f"Host: {host[:80]}", ", ".join(sorted(self.hosts)), "open the address that was printed", 403)
        origin = headers.get("origin")
        if origin is not None and origin != f"{scope['scheme']}://{host}":
            raise Refusal(f"a request from {origin[:80]}", f"{scope['scheme']}://{host}", "open that page", 403)
        site, first = headers.get("sec-fetch-site"), scope["path"] == "/" and scope["method"] == "GET"
        if site not in (None, "same-origin", "none") and not first:
            raise Refusal(f"a {site} request", "one from this page", "open the address that was printed", 403)

    def _is_login(self, scope: Any) -> bool:
        token = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return scope["path"] == "/" and self._is_token(token)

    def _check_token(self, headers: dict[str, str], cookie: str) -> None:
        cookies: SimpleCookie = SimpleCookie()
        try:
            cookies.load(headers.get("cookie", ""))
        except CookieError:
            cookies = SimpleCookie()
        token = _stated(headers) or (cookies[cookie].value if cookie in cookies else "")
        if not self._is_token(token):
            what = "another token" if token else "no token"
            raise Refusal(what, "the token that was printed", "open the address that was printed, with ?token=", 401)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self.token or "").encode())


def _stated(headers: Mapping[str, str]) -> str:
    """The token that a header has; "" without one."""
    scheme, _, text = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return text
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(text, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return headers.get("token", "")


def _cookie(scope: Any) -> str:
    """The cookie's name; browsers keep one for all ports of a host."""
    server = scope.get("server")
    return f"{COOKIE}_{server[1] if server else 0}"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _too_large(given: object, limit: int) -> Refusal:
    return Refusal(f"a body of {given} bytes", f"at most {limit:,}", "send less, in several requests", 413)


def _bounded(receive: Receive, limit: int) -> Receive:
    """Count a body that did not say how long it is."""
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > limit:
            raise _too_large(f"more than {limit:,}", limit)
        return message

    return counted


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            names = {key for key, _ in message["headers"]}
            extra = [(key, value) for key, value in HEADERS.items() if key not in names]
            if b"cache-control" not in names:
                extra.append((b"cache-control", b"no-store"))
            message["headers"] = [*message["headers"], *extra]
        await send(message)

    return sent


async def _refuse(send: Send, error: Refusal) -> None:
    body = json.dumps(as_json(error)).encode()
    start = {"type": "http.response.start", "status": error.status, "headers": [(b"content-type", b"application/json")]}
    await send(start)
    await send({"type": "http.response.body", "body": body})


async def _redirect(send: Send, cookie: str) -> None:
    headers = [(b"location", b"/"), (b"set-cookie", cookie.encode())]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
