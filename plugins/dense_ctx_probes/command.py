"""dense-ctx text: embeddings of class names for zero-shot segmentation, made once."""

from __future__ import annotations

import argparse
from pathlib import Path

from dense_ctx.commands.base import Command


class Text(Command):
    """`dense-ctx text`."""

    help = "embed class names with a CLIP text encoder, into a file"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument("classes", help="a data set (its classes, by --data), or a text file with one class a line")
        parser.add_argument("--data", type=Path, metavar="ROOT", help="root of the data set")
        parser.add_argument(
            "--model", default="openai/clip-vit-base-patch32", help="CLIP on the Hub, a folder, or open_clip:NAME/TAG"
        )
        parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .safetensors file")

    def run(self, args: argparse.Namespace) -> int:
        """Write the file."""
        from dense_ctx.data import names, open_set
        from dense_ctx.errors import FileError, InputError

        from .text import embed_text

        if args.classes in names():
            if args.data is None:
                raise InputError(f"{args.classes} is a data set: give its root with --data")
            classes = open_set(args.classes, args.data).classes
        else:
            try:
                lines = Path(args.classes).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise FileError(f"{args.classes} is neither a data set nor a file of classes: {error}") from None
            classes = tuple(line.strip() for line in lines if line.strip())
        embeddings = embed_text(classes, args.model)
        print(f"{len(classes)} classes, {embeddings.vectors.shape[1]} dimensions -> {embeddings.save(args.out)}")
        return 0
