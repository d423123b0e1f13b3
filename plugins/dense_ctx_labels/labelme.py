"""Format `labelme`: one JSON file per image with named polygons, masks and strokes."""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, PngImagePlugin

from dense_ctx.errors import FileError, InputError
from dense_ctx.files import read_json, write_json, write_text
from dense_ctx.interfaces import Size

from .annotation import Annotation
from .base import Source
from .classes import IGNORE_NAME, Classes
from .folders import files_below, write_each
from .parsing import field, json_keys, lines_of, read_size
from .raster import Mask, box, ellipse
from .records import Record, Records, ShapeFormat, order_of_names
from .references import reference
from .shapes import Shape, Unlabelled, check_pixels, error_context, points_of

_NAMES = "labels.txt"  # for `labelme --labels labels.txt`
_STROKES = ("line", "linestrip", "point", "points")


class Labelme(ShapeFormat):
    """`labelme`: files of versions 3 to 7 (https://github.com/wkentaro/labelme).

    Names have the order of labels.txt in the folder; without it they are sorted, background first. `line`,
    `linestrip`, `point` and `points` are strokes. `__ignore__` means not annotated. X-AnyLabeling's files are such,
    with shapes `rotation` and `quadrilateral` beside; a `cuboid` is refused.

    Args:
        shape: write areas as "polygon" or as "mask" (labelme 5.3 and later).
        images: the folder of the images, to which the written files refer; default: the images are beside the files.
    """

    title = "labelme JSON"
    path_options = frozenset({"images"})
    suffix = ".json"

    def __init__(
        self,
        unlabelled: Unlabelled | None = None,
        stroke_width: float = 3.0,
        order: Literal["file", "area"] = "file",
        shape: Literal["polygon", "mask"] = "polygon",
        images: str | None = None,
    ) -> None:
        super().__init__(unlabelled, stroke_width, order)
        if shape not in ("polygon", "mask"):
            raise InputError(f"labelme: shape is polygon or mask; got {shape!r}")
        self.shape, self.images = shape, images

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """JSON with shapes and imagePath, or a folder whose first JSON file is such."""
        file = next(iter(sorted(path.rglob("*.json"))), path) if path.is_dir() else path
        return {"shapes", "imagePath"} <= json_keys(file)

    def records(self, source: Source) -> Records:
        """Read every file once for the class names."""
        top = source.path if source.path.is_dir() else source.path.parent
        records, names = [], set[str]()
        for file in files_below(source.path, self.suffix):
            data = _read(file)
            with error_context(file, ""):
                image = reference(field(data, "imagePath", str), file.parent, top, source.images)
                size = read_size(data, "imageHeight", "imageWidth")
                names |= {field(shape, "label", str) for shape in field(data, "shapes", list)}
            records.append(Record(image, size, partial(_shapes, file), file))
        listed = lines_of(top / _NAMES) if (top / _NAMES).is_file() else ()
        unlisted = order_of_names(name for name in names if name not in listed)
        return Records(records, (*listed, *unlisted))

    def save(self, path: Path, classes: Classes, annotations: Iterator[Annotation]) -> None:
        """Write one file per image, and labels.txt."""
        folder = write_each(path, self.suffix, annotations, self._write)
        write_text(folder / _NAMES, "\n".join((IGNORE_NAME, *classes.names)) + "\n")

    def _write(self, file: Path, annotation: Annotation) -> None:
        height, width = annotation.labels.shape
        common: dict[str, Any] = {"group_id": None, "description": "", "flags": {}}
        shapes: list[dict[str, Any]] = []
        if self.shape == "polygon":
            for name, ring in self.polygons(annotation):
                shapes.append({"label": name, "points": ring.tolist(), "shape_type": "polygon", "mask": None, **common})
        else:
            for name, mask, (x, y) in self.masks(annotation):
                corners = [[x, y], [x + mask.shape[1] - 1, y + mask.shape[0] - 1]]
                shapes.append(
                    {"label": name, "points": corners, "shape_type": "mask", "mask": _encoded(mask), **common}
                )
        data = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": self._path(file, annotation.image),
                "imageData": None, "imageHeight": height, "imageWidth": width}  # fmt: skip
        write_json(file, data, sync=False)

    def _path(self, file: Path, image: str) -> str:
        if self.images is None:
            return Path(image).name
        return Path(os.path.relpath(Path(self.images) / image, file.parent)).as_posix()


def _read(file: Path) -> dict[str, Any]:
    data = read_json(file)
    if not isinstance(data, dict) or "shapes" not in data:
        raise FileError(f"{file} is not a labelme file: it has no shapes")
    return data


def _shapes(file: Path) -> list[Shape]:
    return [_shape(shape, index) for index, shape in enumerate(field(_read(file), "shapes", list))]


def _shape(data: dict[str, Any], index: int) -> Shape:
    label, kind = field(data, "label", str), str(data.get("shape_type") or "polygon")
    with error_context(f"shape {index} ({label})", ""):
        points = points_of(field(data, "points", list))
        if kind == "mask":
            (x, y), (right, bottom) = (points_of(points, 2)[:2]).round().astype(int).tolist()
            mask = _decoded(field(data, "mask", str), (bottom - y + 1, right - x + 1))
            return Shape(label, "mask", mask=mask, offset=(x, y))
        if kind in _STROKES:
            lines = tuple(point[None] for point in points) if kind == "points" else (points,)
            return Shape(label, "stroke", lines)
        needed = {"polygon": 3, "oriented_rectangle": 4, "rotation": 4, "quadrilateral": 4, "rectangle": 2, "circle": 2}
        if kind not in needed:
            raise FileError(f"shape_type {str(kind)[:40]!r} is unknown")
        points = points_of(points, needed[kind])
        if kind == "rectangle":
            points = box(*points.min(0), *points.max(0))
        if kind == "circle":
            (x, y), radius = points[0], float(np.hypot(*(points[1] - points[0])))
            points = ellipse((x, y), (radius, radius))
        return Shape(label, "area", (points,))


def _encoded(mask: Mask) -> str:
    """Encode a mask as labelme does: base64 of a 1-bit PNG."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _decoded(text: str, size: Size) -> Mask:
    """Decode a mask of labelme, whose size follows from its two points."""
    check_pixels(size)
    try:
        with PngImagePlugin.PngImageFile(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            if image.size != size[::-1]:
                raise InputError(
                    f"its mask is {image.height} x {image.width} (H x W), by its points it is {size[0]} x {size[1]}"
                )
            mask: Mask = np.asarray(image.convert("L")) > 0
    except (binascii.Error, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise FileError(f"its mask is not a PNG in base64: {error}") from None
    return mask
