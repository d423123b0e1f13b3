"""dense-ctx labels: list label formats, check label files and convert them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dense_ctx.commands.arguments import progress, refuse
from dense_ctx.commands.base import Command

if TYPE_CHECKING:
    from .annotation import Annotation, AnnotationSet


class Labels(Command):
    """`dense-ctx labels`."""

    help = "list label formats; check labels; convert them between annotation tools"
    description = (
        "Without arguments: list all formats. PATH: check the labels, and print the classes and their pixel counts. "
        "PATH --out OUT --format F: convert the labels to F."
    )
    stop_note = "finished files are in {out}"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument("path", nargs="?", type=Path, metavar="PATH", help="a file of labels, or a folder of them")
        parser.add_argument(
            "--from",
            dest="source",
            default="auto",
            metavar="F",
            help="format of PATH, NAME(key=value, ...) (%(default)s)",
        )
        parser.add_argument(
            "--images", type=Path, metavar="DIR", help="folder of the images; sizes are checked against them"
        )
        parser.add_argument("--classes", metavar="A,B,C", help="names in the order of ids; default: as PATH has them")
        parser.add_argument("--out", type=Path, metavar="OUT", help="file or folder to write")
        parser.add_argument("--format", metavar="F", help="format of OUT, NAME(key=value, ...)")

    def run(self, args: argparse.Namespace) -> int:
        """List, check or convert."""
        from dense_ctx.config import parse_part
        from dense_ctx.errors import InputError
        from dense_ctx.plugins import registry

        if args.path is None:
            refuse(args, ["source", "images", "classes", "out", "format"], "without PATH, the labels to read")
            _list()
            return 0
        if (args.out is None) != (args.format is None):
            raise InputError("--out and --format are given together: the path to write, and its format")
        source = parse_part(args.source)
        target = parse_part(args.format) if args.format else None
        writer = registry().create("label-format", target.name, **target.args) if target else None
        if writer is not None and not writer.writes:
            raise InputError(
                f"{args.format} can be read but not written; `dense-ctx labels` lists the formats (column OUT)"
            )
        names = [name.strip() for name in args.classes.split(",")] if args.classes else None
        reader = registry().create("label-format", source.name, **source.args)
        annotations = reader.open(args.path, images=args.images, classes=names)
        if writer is None:
            _show(args.path, annotations)
            return 0
        path = writer.write(args.out, progress(annotations, len(annotations), "images"))
        print(f"{args.path} -> {path}: {len(annotations)} images, {len(annotations.classes)} classes")
        return 0


def _list() -> None:
    from dense_ctx.errors import MissingDependencyError, PluginError
    from dense_ctx.plugins import registry

    rows = [("NAME", "IN", "OUT", "FILES", "WHAT")]
    for entry in registry().entries("label-format"):
        try:
            kind = registry().resolve(entry)
        except MissingDependencyError:
            rows.append((entry.name, "-", "-", "-", f'pip install "{entry.owner.distribution}[{entry.extra}]"'))
            continue
        except PluginError as error:
            rows.append((entry.name, "-", "-", "-", str(error)))
            continue
        marks = ["yes" if able else "-" for able in (kind.reads, kind.writes)]
        files = f"*{kind.suffix}" if kind.scope == "image" else f"one {kind.suffix}"
        rows.append((entry.name, *marks, files, kind.title))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]))


def _show(path: Path, annotations: AnnotationSet) -> None:
    import numpy as np

    classes = annotations.classes
    pixels = np.zeros(65536, dtype=np.int64)
    images = np.zeros(65536, dtype=np.int64)
    for annotation in _each(annotations):
        counts = np.bincount(annotation.labels.ravel(), minlength=65536)
        pixels += counts
        images += counts > 0
    print(f"{path}: {len(annotations)} images")
    values = [*range(len(classes)), classes.ignore]
    width = max(len(name) for name in (*classes.names, "not annotated"))
    for value, name in zip(values, (*classes.names, "not annotated"), strict=True):
        print(f"  {value:>5}  {name.ljust(width)}  {pixels[value]:>12,} pixels in {images[value]} images")


def _each(annotations: AnnotationSet) -> Iterator[Annotation]:
    yield from progress(annotations, len(annotations), "images")
