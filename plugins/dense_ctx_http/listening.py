"""Serving an application at an address, until a signal; the options of a command that does."""

from __future__ import annotations

import argparse
import secrets
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from dense_ctx.errors import FileError, InputError

from .guard import LOOPBACK, Guard


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse a port or a token that cannot be one; options of `dense_ctx_http.arguments`."""
    if not 0 <= args.port < 65536:
        raise InputError(f"--port {args.port} is not a port, 0 to 65535")
    if args.token is not None and not (args.token.isascii() and args.token.isalnum() and len(args.token) >= 8):
        raise InputError("--token is at least 8 letters and digits")


def serve(
    make: Callable[..., Guard],
    host: str,
    port: int,
    token: str | None,
    announce: Callable[[str, str | None], None],
    leave: Callable[[], None],
) -> None:
    """Serve until a signal comes.

    Args:
        make: an application of `hosts`, `addresses` and `token`, as `Guard` takes them.
        host, port: to listen at; port 0 is any free one. token: as asked for; where other machines reach the server,
            one is made. announce: takes address and token. leave: called before the server waits for open requests.

    Raises:
        FileError: the port is taken. InputError: no such address.
    """
    local = host in LOOPBACK
    if token is None and not local:
        token = secrets.token_urlsafe(24)
    with _listening(host, port) as listener:
        names = LOOPBACK if local else LOOPBACK | {host.lower(), socket.gethostname().lower()}
        app = make(frozenset(names), not local, token)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, server_header=False)
        anywhere = ("0.0.0.0", "::", "")  # nosec B104  # compared with, not bound to
        hostname = socket.gethostname() if host in anywhere else f"[{host}]" if ":" in host else host
        announce(f"http://{hostname}:{listener.getsockname()[1]}", token)
        _Server(config, leave).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Lets those go that wait for an answer, before it waits for them."""

    def __init__(self, config: uvicorn.Config, leave: Callable[[], None]) -> None:
        super().__init__(config)
        self.leave = leave

    def handle_exit(self, sig: int, frame: Any) -> None:
        """As uvicorn's."""
        self.leave()
        super().handle_exit(sig, frame)


def _listening(host: str, port: int) -> socket.socket:
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise InputError(f"--host {host} is no address of this machine: {error}") from None
    listener = socket.socket(kind, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise FileError(
            f"Cannot listen at {host}, port {port}: {error}. Name another: --port 0 is any free one"
        ) from None
    return listener
