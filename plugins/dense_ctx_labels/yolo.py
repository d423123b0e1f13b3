"""Format `yolo`: segments as ultralytics documents them, one text file per image and class names in data.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from dense_ctx.config import dump_yaml, load_yaml
from dense_ctx.errors import ConfigError, FileError, InputError
from dense_ctx.files import MAX_JSON, read_text, write_text
from dense_ctx.interfaces import Size

from .annotation import Annotation
from .base import Source
from .classes import Classes
from .contours import regions
from .folders import files_below, write_each
from .parsing import lines_of
from .records import Record, Records, ShapeFormat
from .shapes import Shape, check_pixels, error_context, points_of

_YAML, _LIST, _LABELS, _IMAGES = "data.yaml", "classes.txt", "labels", "images"


class Yolo(ShapeFormat):
    """`yolo` (https://docs.ultralytics.com/datasets/segment/): `class x1 y1 x2 y2 ...` relative to width and height.

    Label files are in `labels/` and correspond to images in `images/`, or in the folder given as `images`. The files do
    not state the images' sizes. Background is not a class, and ignored pixels cannot be represented.
    """

    title = "YOLO segments"
    suffix = ".txt"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A folder with a data.yaml, or one called labels with text files."""
        return path.is_dir() and ((path / _YAML).is_file() or (path.name == _LABELS and any(path.rglob("*.txt"))))

    def records(self, source: Source) -> Records:
        """An image for each text file."""
        top = source.path if source.path.is_dir() else source.path.parent
        folder = top / _LABELS if (top / _LABELS).is_dir() else top
        home = next((f for f in (top, *top.parents[:3]) if (f / _YAML).is_file() or (f / _LIST).is_file()), top)
        names = _names(home)
        records = []
        for file in files_below(folder if source.path.is_dir() else source.path, self.suffix):
            if file.name == _LIST:
                continue
            stem = file.relative_to(folder).with_suffix("").as_posix()
            image = source.images.with_stem(stem) if source.images else f"{stem}.jpg"
            size = source.images.size(image) if source.images else source.size
            if size is None:
                raise InputError(f"{file} does not state its image's size; give images=FOLDER or size=(H, W)")
            records.append(Record(image, size, partial(_shapes, file, size, names), file))
        return Records(records, names)

    def save(self, path: Path, classes: Classes, annotations: Iterator[Annotation]) -> None:
        """Write labels/ with one file per image, and data.yaml."""
        skip = classes.ignore if self.painting.unlabelled == "ignore" else classes.background
        ids = {value: index for index, value in enumerate(v for v in range(len(classes)) if v != skip)}
        if path.suffix.lower() == self.suffix:
            raise InputError(f"{path} is a file; YOLO labels are a folder with {_YAML} and {_LABELS}/")

        def write(file: Path, annotation: Annotation) -> None:
            if skip != classes.ignore and bool((annotation.labels == classes.ignore).any()):
                raise InputError(
                    "YOLO cannot represent both background and pixels that are not annotated; with unlabelled=ignore "
                    "background is a class and pixels without a label are not annotated"
                )
            height, width = annotation.labels.shape
            lines = []
            for value, ring in regions(annotation.labels, skip):
                shares = (ring / (width, height)).ravel().tolist()
                lines.append(" ".join([str(ids[value]), *(f"{share:.10g}" for share in shares)]) + "\n")
            write_text(file, "".join(lines), sync=False)

        write_each(path / _LABELS, self.suffix, annotations, write)
        names = [classes.names[value] for value in ids]
        content: dict[str, Any] = {"path": ".", "train": _IMAGES, "val": _IMAGES, "names": dict(enumerate(names))}
        write_text(path / _YAML, dump_yaml(content))


def _names(folder: Path) -> tuple[str, ...]:
    """Class names of data.yaml or classes.txt, in the order of their numbers."""
    file = folder / _YAML
    if not file.is_file():
        if (folder / _LIST).is_file():
            return lines_of(folder / _LIST)
        raise FileError(f"There is no {_YAML} or {_LIST} with the class names in {folder}")
    try:
        content = load_yaml(read_text(file), str(file))
    except ConfigError as error:
        raise FileError(str(error)) from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, (str, int)) for name in names):
        raise FileError(f"{file} has no class names numbered from 0")
    return tuple(map(str, names))


def _shapes(file: Path, size: Size, names: tuple[str, ...]) -> list[Shape]:
    check_pixels(size)
    shapes = []
    for number, line in enumerate(read_text(file, MAX_JSON).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        with error_context(f"line {number}", ""):
            if not words[0].isdecimal() or int(words[0]) >= len(names):
                raise FileError(f"the class is a number from 0 to {len(names) - 1}; got {words[0][:20]!r}")
            if len(words) == 5:
                raise InputError("it is a box, which does not label pixels; expected segments")
            try:
                values = [float(word) for word in words[1:]]
            except ValueError:
                raise FileError(f"expected numbers; got {line[:80]!r}") from None
            points = points_of(values, 3) * (size[1], size[0])
            shapes.append(Shape(names[int(words[0])], "area", (points,)))
    return shapes
