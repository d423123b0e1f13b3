"""dense-ctx explore: a page in the browser over a session."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from dense_ctx_http.arguments import add_address_arguments, require_packages

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
            "--max-memory",
            default="2GB",
            metavar="SIZE",
            help="of the features that are kept in memory, a model (%(default)s)",
        )
        add("--open", action="store_true", help="open the page in the browser")
        add_address_arguments(parser, 8765)
        add_device_argument(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Serve until a signal."""
        require_packages("dense-ctx explore", "explore")
        from dense_ctx_http.listening import check_arguments

        from dense_ctx.errors import InputError
        from dense_ctx.model_spec import open_model

        from .server import images_of, serve, workspace_of

        names = args.models or [DEFAULT_MODEL]
        if len(names) > MAX_MODELS or len(set(names)) < len(names):
            raise InputError(f"--model {' --model '.join(names)}: expected one model, or two that differ")
        check_arguments(args)
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
