"""dense-ctx predict: masks, depth or normals for images, folders and videos."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dense_ctx.commands.arguments import (
    add_model_argument,
    refuse,
    split_pair,
)
from dense_ctx.commands.base import Command
from dense_ctx.model_spec import DEFAULT_METHOD

from .precision import add_precision_arguments

if TYPE_CHECKING:
    from .outputs import Writer
    from .predictor import Predictor
    from .queries import Query
    from .run import Summary

LISTED = 20  # most files that are printed one by one
FACTS = "predictor.json"
EXAMPLE_OPTIONS = ("method", "ignore_index", "classes", "task")  # how examples are read


class Predict(Command):
    """`dense-ctx predict`."""

    help = "masks, depth or normals for images, folders and videos: from annotated examples, or by a trained head"
    description = (
        "From annotated examples (--support), by a saved predictor, or by a model with a trained head (--model). A "
        "folder stands for all images and videos in it and its subfolders. Run the same command again to resume."
    )
    epilog = (
        "Example: dense-ctx predict --support a.jpg:a_mask.png --query photos/ --classes 0=background 1=cup. "
        "A mask has the image's size and holds class ids (palette or grey PNG), 255 where nothing is annotated: a few "
        "strokes of each class will do. The status is 1 where a file could not be predicted."
    )
    stop_note = "finished predictions are in {out}; run the same command again to resume"
    bounds = ("max_memory", "format")  # rasters have one of their own

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        add = parser.add_argument
        add("--query", nargs="+", type=Path, metavar="PATH", help="images, videos, or folders of them at any depth")
        add(
            "--support",
            nargs="+",
            metavar="IMG:MASK",
            help="annotated examples: class ids; with --task, depth or normals",
        )
        add(
            "--labels-in",
            type=Path,
            metavar="PATH",
            help="examples in place of --support: labels of an annotation tool, a file or a folder; strokes will do",
        )
        add(
            "--labels-from",
            default="auto",
            metavar="F",
            help="format of --labels-in, NAME(key=value, ...) of `dense-ctx labels` (%(default)s)",
        )
        add("--images", type=Path, metavar="DIR", help="folder of the images of --labels-in (that of the labels)")
        add("--labels-out", type=Path, metavar="PATH", help="the masks as labels of an annotation tool too")
        add("--labels-to", metavar="F", help="format of --labels-out, NAME(key=value, ...) of `dense-ctx labels`")
        add("--out", type=Path, default=Path("dense-ctx-predictions"), help="folder (%(default)s)")
        add(
            "--task",
            choices=["segmentation", "depth", "normals"],
            help="what the examples show: depth is a 16-bit picture, .npy [H, W] or .exr, normals an RGB picture or "
            ".npy [H, W, 3]; default classes, or the values of a .npy file",
        )
        add(
            "--scale",
            type=float,
            metavar="VALUES",
            help="values of depth pictures per metre, read and written (1000); .npy and .exr files are in metres",
        )
        add(
            "--format",
            choices=["png", "npy", "tif", "exr"],
            help="of the predictions (png; npy of values without a unit). exr: depth. tif: masks of GeoTIFFs of any "
            "size, by windows within --max-memory (2GB), with their georeference and without overlays",
        )
        add("--bands", nargs="+", type=int, metavar="BAND", help="of GeoTIFFs: those of red, green and blue, from 1")
        add("--span", nargs=2, type=float, metavar=("BLACK", "WHITE"), help="of GeoTIFFs: values of black and white")
        add("--classes", nargs="+", default=[], metavar="ID=NAME", help="names of the masks' classes")
        add(
            "--method",
            default=DEFAULT_METHOD,
            help="ensemble, ridge, knn, linear or another probe, NAME(key=value, ...) (%(default)s)",
        )
        add(
            "--ignore-index",
            default="auto",
            metavar="ID",
            help="mask value that means not annotated, or none; auto is 255, but 0 and 255 alone are background and "
            "foreground (%(default)s)",
        )
        add("--frames", action="store_true", help="each folder of --query is one clip, its images are the frames")
        add("--no-overlay", action="store_true", help="write no overlays or pictures, only the predictions")
        add("--processes", type=int, default=1, metavar="N", help="at once, each with a model of its own (%(default)s)")
        add("--save", type=Path, metavar="DIR", help="write the predictor, for --model DIR or the Hub")
        add_model_argument(parser)
        add_precision_arguments(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Predict; print the output paths and the skipped files. Returns 1 if any was skipped."""
        from dense_ctx.errors import InputError

        from . import labels
        from .opening import from_arguments
        from .queries import expand

        if not args.query and not args.save:
            raise InputError("Nothing to do: give --query PATH ..., or --save DIR")
        _check(args)
        pairs = [split_pair(text) for text in args.support or []]
        inputs = [args.labels_in] if args.labels_in else [mask for _, mask in pairs]
        outputs = [args.out, *([args.labels_out] if args.labels_out else [])]
        # labels may be in a folder of images to predict; mask files are skipped
        skip = [path for path in inputs if not path.is_dir() or args.images]
        queries = expand(args.query or [], frames=args.frames, skip=[*outputs, *skip])
        form = labels.target(args)
        predictor = from_arguments(args, pairs)
        if args.save:
            print(f"predictor -> {predictor.save(args.save)}")
        if not queries:
            return 0
        writer = _writer(args, predictor)
        if (args.scale is not None or args.format == "png") and predictor.task not in (
            "depth",
            "segmentation",
            "normals",
        ):
            raise InputError("Values without a unit are written as .npy, as they are: leave --format and --scale out")
        if writer.format == "exr" and predictor.task != "depth":
            raise InputError(f"--format exr is of depth; this predicts {predictor.task}: leave it out")
        if args.scale is not None and predictor.task != "depth":
            raise InputError(f"--scale is of depth; this predicts {predictor.task}: leave it out")
        if writer.format == "tif" and (predictor.task != "segmentation" or predictor.context is None):
            raise InputError(
                f"--format tif is of class masks from examples; {args.model} predicts {predictor.task}"
                f"{' by a trained head, which resizes each image' if predictor.context is None else ''}"
            )
        labels.check(args, predictor.task, writer.format)
        _claim(args.out, predictor, writer)
        try:
            summary = _predict(args, queries, writer)
            line = labels.export(args, form, writer, queries, summary.skipped) if form else ""
            status = _report(summary, writer, len(queries))
            if line:
                print(line)
            return status
        finally:
            labels.write_names(writer)
            if [path.name for path in args.out.iterdir()] == [FACTS]:  # nothing was predicted: leave no folder
                (args.out / FACTS).unlink()
                args.out.rmdir()


def _check(args: argparse.Namespace) -> None:
    """Validate the arguments before any file is opened."""
    from dense_ctx.config import parse_part
    from dense_ctx.errors import InputError
    from dense_ctx.plugins import registry

    from .support import class_names, ignore_index

    if args.support is None and args.labels_in is None:
        refuse(args, EXAMPLE_OPTIONS, "without --support")
    if args.labels_in is None:
        refuse(args, ["labels_from", "images"], "without --labels-in")
    else:
        refuse(args, ["support", "ignore_index", "classes", "task"], "with --labels-in, whose files say it")
    if (args.labels_out is None) != (args.labels_to is None):
        raise InputError("--labels-out and --labels-to go together: where to, and in which format")
    if not args.query:
        refuse(args, ["frames", "no_overlay", "processes", "format", "out", "labels_out"], "without --query")
    args.rasters = None
    if args.format == "tif":
        from . import rasters

        args.rasters = rasters.options(args.bands, args.span)
        args.rasters.form()  # refused before any work
        if args.task in ("depth", "normals"):
            raise InputError(f"--format tif is of class masks; --task {args.task} is written as png or npy")
    else:
        refuse(args, ["bands", "span"], "without --format tif")
    if args.format == "exr":
        from . import exr

        exr.library()  # refused before any work
    if args.processes < 1:
        raise InputError(f"--processes {args.processes}: expected at least 1")
    if args.scale is not None and not 0 < args.scale < float("inf"):
        raise InputError(f"--scale {args.scale}: expected a number above 0")
    try:
        args.ignored = ignore_index(args.ignore_index)
    except ValueError:
        raise InputError(f"--ignore-index {args.ignore_index!r}: expected a whole number, none or auto") from None
    args.names, args.part = class_names(args.classes), parse_part(args.method)
    kind = "regression" if args.task in ("depth", "normals") else "segmentation"
    registry().create("probe", args.part.name, task=kind, **args.part.args)  # refused before any work


def _writer(args: argparse.Namespace, predictor: Predictor) -> Writer:
    from .outputs import Format, Writer
    from .support import MILLIMETRES

    plain: Format = args.format or ("npy" if predictor.task == "regression" else "png")
    pictures = not args.no_overlay and plain != "tif"
    return Writer(predictor, args.out, plain, args.scale or MILLIMETRES, pictures, args.max_memory, args.rasters)


def _claim(out: Path, predictor: Predictor, writer: Writer) -> None:
    """Reserve `out` for this predictor; refuse a folder with predictions of another."""
    from dense_ctx.persistence.identity import Identity

    from .files import identity

    settings: dict[str, Any] = {**identity(predictor), "format": writer.format}
    if predictor.task == "depth" and writer.format == "png":
        settings["scale"] = writer.scale
    if writer.rasters is not None:
        settings["rasters"] = [writer.rasters.bands, writer.rasters.span]
    advice = "Choose another --out, or remove this one to begin anew"
    Identity(out / FACTS, "folder of predictions", advice).claim(settings)


def _predict(args: argparse.Namespace, queries: list[Query], writer: Writer) -> Summary:
    from dense_ctx.persistence.lock import locked

    from .opening import Recipe
    from .run import run

    with locked(args.out, f"The folder {args.out}"), tempfile.TemporaryDirectory() as folder:
        again = Recipe.of(args, writer, Path(folder)).open if args.processes > 1 else None
        return run(queries, writer, again, args.processes)


def _report(summary: Summary, writer: Writer, count: int) -> int:
    from .outputs import FOLDERS
    from .run import RECORD

    folder = writer.out / FOLDERS[writer.predictor.task]
    parts = [f"{summary.new} predicted in {summary.seconds:.0f} s"]
    parts += [f"{summary.before} already done"] if summary.before else []
    parts += [f"{len(summary.skipped)} skipped"] if summary.skipped else []
    print(f"{count} image(s) and video(s): {', '.join(parts)}\n  {folder}, listed in {writer.out / RECORD}")
    if writer.pictures:
        print(f"  {writer.out / ('overlays' if writer.predictor.task == 'segmentation' else 'pictures')}")
    if summary.without_depth:
        print(f"  {summary.without_depth} of them have pixels without a positive depth, written as 0", file=sys.stderr)
    for path, reason in list(summary.skipped.items())[:LISTED] if count > LISTED else ():  # else printed just above
        print(f"skipped {path}: {reason}", file=sys.stderr)
    if len(summary.skipped) > LISTED:
        print(f"... and {len(summary.skipped) - LISTED} more", file=sys.stderr)
    return 1 if summary.skipped else 0
