"""Options of commands that serve; imported before Starlette is, which not every installation has."""

from __future__ import annotations

import argparse

from dense_ctx.containment import optional_package


def add_address_arguments(parser: argparse.ArgumentParser, port: int) -> None:
    """--host, --port, --token."""
    add = parser.add_argument
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen at; other than this machine's own needs a token (%(default)s)",
    )
    add("--port", type=int, default=port, help="0 is any free one (%(default)s)")
    add("--token", help="to be asked for; made and printed where --host is not this machine's own")


def require_packages(what: str, extra: str) -> None:
    """Raise MissingDependencyError unless there are the packages of a server."""
    install = f'"dense-ctx[{extra}]"'
    optional_package("starlette", what, install)
    optional_package("uvicorn", what, install)
