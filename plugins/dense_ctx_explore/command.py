"""dense-ctx explore: a page in the browser over a session."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from dense_ctx.commands.arguments import MODEL_HELP, add_device_argument
from dense_ctx.commands.base import Command
from dense_ctx.model_spec import DEFAULT_MODEL

MAX_MODELS = 2


class Explore(Command):
    """`dense-ctx explore`."""

    help = "label images or a clip in the browser: a few strokes, the mask follows, correct, propagate, export"
    description = (
        "Serves a page for this machine's browser. Strokes of several classes are painted, the mask follows them; "
        "everything is kept in --save, and the same command goes on from there."
    )
    epilog = (
        "Example: dense-ctx explore photos/. With --host 0.0.0.0 other machines reach it, by the token in the address "
        "that is printed. The page's HTTP interface is in docs/http_api.md."
    )
    stop_note = "all strokes are in {save}; the same command goes on from there"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        add = parser.add_argument
        add("images", nargs="+", type=Path, metavar="PATH", help="images, a folder of them at any depth, or one video")
        add("--frames", action="store_true", help="the folder is one clip, its images are the frames")
        add(
            "--model",
            dest="models",
            action="append",
            metavar="MODEL",
            help=f"{MODEL_HELP}; given twice, two models stand side by side",
        )
        add("--classes", nargs="+", default=[], metavar="NAME", help="of a new session (background object)")
        add("--method", help="ridge or another probe, NAME(key=value, ...) (the session's)")
        add(
            "--save",
            type=Path,
            default=Path("dense-ctx-explore"),
            metavar="FOLDER",
            help="of strokes, features, exports (%(default)s)",
        )
        add(
            "--host",
            default="127.0.0.1",
            help="address to listen at; other than this machine's own needs a token (%(default)s)",
        )
        add("--port", type=int, default=8765, help="0 is any free one (%(default)s)")
        add("--token", help="to be asked for; made and printed where --host is not this machine's own")
        add(
            "--max-memory",
            default="2GB",
            metavar="SIZE",
            help="of the features that are kept in memory, a model (%(default)s)",
        )
        add("--open", action="store_true", help="open the page in the browser")
        add_device_argument(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Serve until a signal."""
        from dense_ctx.containment import optional_package
        from dense_ctx.errors import InputError
        from dense_ctx.model_spec import open_model

        what, install = "dense-ctx explore", '"dense-ctx[explore]"'
        optional_package("starlette", what, install)
        optional_package("uvicorn", what, install)
        from .server import images_of, serve, workspace_of

        names = args.models or [DEFAULT_MODEL]
        if len(names) > MAX_MODELS or len(set(names)) < len(names):
            raise InputError(f"--model {' --model '.join(names)}: expected one model, or two that differ")
        if not 0 <= args.port < 65536:
            raise InputError(f"--port {args.port} is not a port, 0 to 65535")
        if args.token is not None and not (args.token.isascii() and args.token.isalnum() and len(args.token) >= 8):
            raise InputError("--token is at least 8 letters and digits")
        source = images_of(args.images, args.save)
        models = {name: open_model(name, args.device) for name in names}
        options = {"method": args.method, "max_memory": args.max_memory, "frames": args.frames}

        def announce(address: str) -> None:
            print(f"{count} item(s), {' and '.join(names)}; strokes in {args.save}\n\n  {address}\n", flush=True)
            if args.open:
                webbrowser.open(address)

        cache = args.save / "features"
        with workspace_of(models, source, args.save, classes=args.classes, cache_dir=cache, **options) as workspace:
            count = len(workspace.session.items)
            serve(workspace, args.host, args.port, args.token, announce)
        return 0
