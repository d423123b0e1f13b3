"""Read the annotated examples of a command line, for each task, and their class names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from dense_ctx_datasets.geometric_files import metres, read_depth, read_normals
from torch import Tensor

from dense_ctx import InContext, registry
from dense_ctx.config import Part, Quantity
from dense_ctx.data.video import IMAGE_SUFFIXES
from dense_ctx.errors import FileError, InputError
from dense_ctx.images import open_image
from dense_ctx.interfaces import Task
from dense_ctx.model import DenseModel
from dense_ctx.plugins import blamed

from . import exr
from .predictor import Colour, Predictor

PICTURES = frozenset({*IMAGE_SUFFIXES, ".npy", exr.SUFFIX})  # any other suffix is a file of an annotation tool
NOT_ANNOTATED = -1
MILLIMETRES = 1000.0  # values per metre of a 16-bit depth picture


def fit(
    model: DenseModel,
    pairs: Sequence[tuple[Path, Path]],
    method: Part,
    *,
    task: Quantity | None,
    scale: float | None,
    ignore_index: Any,
    names: dict[int, str],
    max_memory: str | None,
    read: Callable[[Path], Any],
) -> Predictor:
    """Fit a predictor to pairs of image and annotation.

    Args:
        task: None: classes, or the values of .npy files.
        scale: values of depth pictures per metre, default 1000; .npy and .exr files are in metres.
        read: gives what is fitted of an image's path.

    Raises:
        FileError, InputError: a file cannot be read, or does not match the task.
    """
    targets: list[Any] = [path for _, path in pairs]
    if task == "depth":
        targets = [_depth(path, scale or MILLIMETRES) for path in targets]
    elif task == "normals":
        targets = [read_normals(path) for path in targets]
    elif any(path.suffix.lower() not in PICTURES for path in targets):
        targets, legend = _of_tools(targets)
        names, ignore_index = {**legend, **names}, NOT_ANNOTATED
    kind: Task | None = "regression" if task in ("depth", "normals") else task  # type: ignore[assignment]
    context = InContext(model, method.name, kind, ignore_index, **method.args)
    context.fit([read(image) for image, _ in pairs], targets, max_memory)
    coloured = context.task_ == "segmentation" and not context.targets_.binary
    colours = _palette([path for _, path in pairs]) if coloured else {}
    if names and context.task_ != "segmentation":
        raise InputError(f"--classes names classes, but the examples are {task or 'values'}: leave it out")
    return Predictor(context, task, names, {i: colour for i, colour in colours.items() if i in context.classes_})


def _depth(path: Path, scale: float) -> Tensor:
    """Depth in metres, float32 [1, H, W], NaN where it is unknown."""
    if path.suffix.lower() == exr.SUFFIX:
        return metres(exr.read_depth_values(path), 1.0, none=(0, exr.NOTHING))
    return read_depth(path, 1.0 if path.suffix == ".npy" else scale)


def _of_tools(paths: Sequence[Path]) -> tuple[list[Any], dict[int, str]]:
    """Label maps from files of annotation tools, with the same id for the same class name; and id -> name.

    Raises:
        InputError: some of the files are pictures, whose ids have no names. FileError: a file of an unknown format.
    """
    if pictures := [path for path in paths if path.suffix.lower() in PICTURES]:
        raise InputError(
            f"{pictures[0]} is a picture, but other annotations are not: give one kind; `dense-ctx labels` converts"
        )
    ids: dict[str, int] = {}
    maps = []
    for path in paths:
        with blamed("label-format", "auto"):
            annotation = registry().create("label-format", "auto").read(path)
        labels = np.asarray(annotation.labels)
        common = np.full(labels.shape, NOT_ANNOTATED, dtype=np.int64)
        for place, name in enumerate(annotation.classes.names):
            common[labels == place] = ids.setdefault(name, len(ids))
        maps.append(common)
    present = {int(i) for labels in maps for i in np.unique(labels)}
    return maps, {i: name for name, i in ids.items() if i in present}


def _palette(masks: Sequence[Path]) -> dict[int, Colour]:
    """Palette of the first mask whose palette has several colours; {} if there is none."""
    for path in masks:
        try:
            image = open_image(path)
        except FileError:
            continue
        flat = image.getpalette("RGB") if image.mode == "P" else None
        if flat:
            table = [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat) - 2, 3)]
            if len({*table}) > 1:
                return dict(enumerate(table))
    return {}


def class_names(words: Sequence[str]) -> dict[int, str]:
    """Parse ID=NAME words.

    Raises:
        InputError: a word is not ID=NAME, or an id occurs twice.
    """
    names: dict[int, str] = {}
    for word in words:
        text, equals, name = word.partition("=")
        if not equals or not name or not text.strip().isdecimal():
            raise InputError(f"--classes {word!r} is not ID=NAME, such as 1=road")
        if int(text) in names:
            raise InputError(f"--classes names the id {int(text)} twice")
        names[int(text)] = name
    return names


def ignore_index(text: str) -> int | str | None:
    """Parse the value of --ignore-index."""
    if text in ("auto", "none"):
        return None if text == "none" else text
    return int(text)
