"""dense-ctx text: compute embeddings of class names for zero-shot segmentation."""

from __future__ import annotations

import argparse
from pathlib import Path

from dense_ctx.commands.arguments import add_device_argument, refuse
from dense_ctx.commands.base import Command


class Text(Command):
    """`dense-ctx text`."""

    help = "embed class names with a CLIP text encoder, into a file"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument(
            "classes",
            metavar="CLASSES",
            help="a data set (its classes, by --data), or a text file with one class a line",
        )
        parser.add_argument("--data", type=Path, metavar="ROOT", help="root of the data set")
        parser.add_argument(
            "--encoder",
            default="openai/clip-vit-base-patch32",
            metavar="NAME",
            help="CLIP on the Hub, a folder, or open_clip:NAME/TAG (%(default)s)",
        )
        parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .safetensors file")
        add_device_argument(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Write the file."""
        from dense_ctx.data import names, open_set
        from dense_ctx.device import pick_device
        from dense_ctx.errors import FileError, InputError

        from .text import embed_text

        if args.classes in names():
            if args.data is None:
                raise InputError(f"{args.classes} is a data set: give its root with --data")
            classes = open_set(args.classes, args.data).classes
        else:
            refuse(args, ["data"], f"with {args.classes}, which is not the name of a data set")
            try:
                lines = Path(args.classes).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise FileError(f"{args.classes} is neither a data set nor a file of classes: {error}") from None
            classes = tuple(line.strip() for line in lines if line.strip())
        embeddings = embed_text(classes, args.encoder, device=pick_device(args.device))
        print(f"{len(classes)} classes, {embeddings.vectors.shape[1]} dimensions -> {embeddings.save(args.out)}")
        return 0
