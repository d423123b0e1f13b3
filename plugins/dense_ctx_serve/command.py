"""dense-ctx serve: predictions for the annotation tools Label Studio and X-AnyLabeling."""

from __future__ import annotations

import argparse
import functools
import os
from pathlib import Path

from dense_ctx_http.arguments import add_address_arguments, require_packages

from dense_ctx.commands.arguments import add_model_argument, refuse
from dense_ctx.commands.base import Command
from dense_ctx.model_spec import DEFAULT_METHOD

KEY = "LABEL_STUDIO_API_KEY"


class Serve(Command):
    """`dense-ctx serve`."""

    help = "predictions inside Label Studio and X-AnyLabeling: from the images that are annotated there, or at a click"
    description = (
        "Serves X-AnyLabeling's remote-server protocol, and with --label-studio the protocol of Label Studio's machine "
        "learning backends. What is annotated in the tool is the context; the rest is predicted from it."
    )
    epilog = (
        "Example: dense-ctx serve --labels-in photos/ for X-AnyLabeling; dense-ctx serve --label-studio "
        f"http://localhost:8080 with a user's token in {KEY}. What each tool needs is in docs/tools.md."
    )
    stop_note = "the tools keep what was predicted"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        add = parser.add_argument
        add(
            "--labels-in",
            type=Path,
            metavar="FOLDER",
            help="of label files that X-AnyLabeling writes: images annotated there predict the others",
        )
        add(
            "--labels-from",
            default="labelme",
            metavar="F",
            help="format of --labels-in, NAME(key=value, ...) of `dense-ctx labels` (%(default)s, X-AnyLabeling's own)",
        )
        add("--label-studio", metavar="URL", help="of Label Studio; nothing is read from elsewhere")
        add("--label-studio-token", metavar="TOKEN", help=f"of a user there (the variable {KEY})")
        add("--images", type=Path, metavar="FOLDER", help="of the images (beside the label files; in Label Studio)")
        add(
            "--unlabelled",
            choices=["background", "ignore"],
            help="what pixels without a region are in Label Studio's annotations (background, unless a brush label has "
            "that name)",
        )
        add(
            "--seconds",
            type=float,
            default=80.0,
            help="for one request of Label Studio, which waits 100; tasks left over are predicted when it asks again "
            "(%(default)g)",
        )
        add(
            "--method",
            default=DEFAULT_METHOD,
            help="ensemble, ridge, knn, linear or another probe, NAME(key=value, ...) (%(default)s)",
        )
        add(
            "--max-memory",
            default="2GB approximate",
            metavar="SIZE",
            help="of one prediction, and of features; larger images are tiled, and refused where that changes their "
            'features, which "approximate" accepts (%(default)s)',
        )
        add_address_arguments(parser, 8000)
        add_model_argument(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Serve until a signal."""
        require_packages("dense-ctx serve", "serve")
        from dense_ctx_http import listening

        from .app import application
        from .opening import desk_of_arguments, studio_of_arguments

        listening.check_arguments(args)
        if args.label_studio is None:
            refuse(args, ["label_studio_token", "unlabelled", "seconds"], "without --label-studio")
        if args.labels_in is None:
            refuse(args, ["labels_from"], "without --labels-in")
            if args.label_studio is None:
                refuse(args, ["images", "method"], "without --labels-in or --label-studio")
        desk = desk_of_arguments(args)

        def announce(address: str, token: str | None) -> None:
            user, _, place = address.partition("//")
            key = f"X-AnyLabeling: server {address}" + (f", API key {token}" if token else "")
            print(f"{args.model}\n\n  {key}", flush=True)
            if args.label_studio is not None:
                url = f"{user}//token:{token}@{place}" if token else address
                print(f"  Label Studio ({args.label_studio}): model backend {url}", flush=True)
            print(flush=True)

        try:
            studio = studio_of_arguments(args, desk, os.environ.get(KEY))
            make = functools.partial(application, desk, studio)
            listening.serve(make, args.host, args.port, args.token, announce, desk.leave)
        finally:
            desk.close()
        return 0
