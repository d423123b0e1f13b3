"""Read examples from, and write predictions to, files of annotation tools: `--labels-in`, `--labels-out`."""

from __future__ import annotations

import warnings
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dense_ctx import InContext, registry
from dense_ctx.config import parse_part
from dense_ctx.errors import FileError, InputError
from dense_ctx.images import load_mask, open_image
from dense_ctx.model import DenseModel
from dense_ctx.plugins import blamed
from dense_ctx.visualize import Picture

from .outputs import FOLDERS, Writer
from .predictor import Colour, Predictor
from .queries import Query

IGNORE = 255


def fit(model: DenseModel, args: Namespace, read: Callable[[Path], Any]) -> Predictor:
    """Fit a predictor to the annotated images of `--labels-in`. read: gives what is fitted of an image's path.

    Raises:
        FileError, InputError: the labels cannot be read, an image is missing, or no image has labels.
    """
    part = parse_part(args.labels_from)
    folder = args.images or (args.labels_in if args.labels_in.is_dir() else args.labels_in.parent)
    reader = registry().create("label-format", part.name, **part.args)
    images, targets = [], []
    with blamed("label-format", part.name):
        annotations = reader.open(args.labels_in, images=folder)
        for annotation in annotations:
            if bool((annotation.labels != annotation.classes.ignore).any()):  # the reader warns of the others
                images.append(read(folder / annotation.image))
                targets.append(annotation.labels.astype(np.int64))
    if not images:
        raise InputError(f"{args.labels_in} has {len(annotations)} image(s), and none with labels")
    classes = annotations.classes
    context = InContext(model, args.part.name, "segmentation", classes.ignore, **args.part.args)
    context.fit(images, targets, args.max_memory)
    names = {index: classes.names[index] for index in context.classes_}
    return Predictor(context, None, names, {index: classes.colours[index] for index in names})


def target(args: Namespace) -> Any:
    """Create and validate the format of `--labels-out` before any work; None if it was not given."""
    if args.labels_out is None:
        return None
    part = parse_part(args.labels_to)
    writer = registry().create("label-format", part.name, **part.args)
    with blamed("label-format", part.name):
        writer.check_target(args.labels_out)
    return writer


def export(args: Namespace, form: Any, writer: Writer, queries: Sequence[Query], skipped: Collection[Path]) -> str:
    """Write the masks in `--out` to `--labels-out`; returns a line for the summary.

    Raises:
        InputError: the format cannot represent the labels. FileError: it cannot be written.
    """
    predictor = writer.predictor
    present = [query for query in queries if query.path not in skipped]
    if not present:
        return ""
    ids = [item.id for item in predictor.classes]
    index_of = np.full(max(ids) + 1, -1, dtype=np.int64)
    index_of[ids] = np.arange(len(ids))

    def maps() -> Iterator[tuple[str, Any, Callable[[], Picture] | None]]:
        for query in present:
            main = writer.out / writer.files(query)[0]
            for file in sorted(main.glob("[0-9]*.png")) if query.clip else [main]:
                image = f"{query.name}/{file.name}" if query.clip else query.file
                picture = None if query.clip else partial(_picture, query.path)
                yield image, index_of[load_mask(file).numpy()], picture

    names = [item.name for item in predictor.classes]
    with blamed("label-format", parse_part(args.labels_to).name):
        path = form.write_maps(args.labels_out, names, [item.colour for item in predictor.classes], maps())
    return f"  {path}, as {args.labels_to}"


def write_names(writer: Writer) -> None:
    """Write names and colours of the classes beside the masks, as labelmap.txt, from which label formats read them.

    What such a file has no place for is said in a warning, and the masks stay without it.
    """
    folder = writer.out / FOLDERS["segmentation"]
    if writer.predictor.task != "segmentation" or writer.format != "png" or not folder.is_dir():
        return
    names, colours = named_ids(writer.predictor)
    try:
        if len(names) == IGNORE + 1:
            raise InputError(f"{IGNORE}, which is a class here, means not annotated in label images")
        form = registry().create("label-format", "png")
        form.write_names(folder, names, colours)
    except InputError as error:
        warnings.warn(f"{folder} has no names of its classes: {error}; --labels-out keeps them", stacklevel=2)


def named_ids(predictor: Predictor) -> tuple[list[str], list[Colour]]:
    """Names and colours of all ids from 0 to the greatest class; those of no class are "unused N"."""
    classes = {item.id: item for item in predictor.classes}
    ids = range(max(classes) + 1)
    table = predictor.colours.tolist()
    colours: list[Colour] = [(red, green, blue) for red, green, blue in table[: len(ids)]]
    return [classes[i].name if i in classes else f"unused {i}" for i in ids], colours


def check(args: Namespace, task: str, plain: str) -> None:
    """Refuse `--labels-out` for anything but class masks."""
    if args.labels_out is not None and (task != "segmentation" or plain != "png"):
        raise InputError(f"--labels-out is for class masks; this writes {task} as .{plain}: leave it out")


def _picture(path: Path) -> Picture:
    try:
        return np.asarray(open_image(path).convert("RGB"))
    except FileError as error:
        raise FileError(f"{error}; it could be read when it was predicted") from error
