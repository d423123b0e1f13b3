"""Convert regions of Label Studio's results to shapes, and find the images of its tasks."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from dense_ctx.errors import FileError, InputError
from dense_ctx.interfaces import Size

from .brush import mask_of_brush
from .parsing import field, read_size
from .raster import box, ellipse, rotate
from .references import ImageFiles, checked_reference
from .shapes import Shape, check_pixels, error_context, points_of

_KINDS = ("brush", "polygon", "rectangle", "ellipse", "keypoint")
_WITHOUT_PIXELS = ("choices", "textarea", "number", "rating", "taxonomy", "relation", "datetime", "pairwise", "ranker")
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")  # before the name of an uploaded file


def image_of(task: dict[str, Any], images: ImageFiles | None, key: str = "image") -> str:
    """Relative path of a task's image: that of a local file, or the file name of an upload or a URL.

    Args:
        key: of the image in the task's data; without it the only text there is taken.

    Raises:
        FileError: the task's data names no image. InputError: the path leaves its folder.
    """
    data = field(task, "data", dict)
    texts = [value for value in data.values() if isinstance(value, str)]
    text = data.get(key, texts[0] if len(texts) == 1 else None)
    if not isinstance(text, str) or not text:
        raise FileError(f"its data has no image; got {str(data)[:80]}")
    url = urlsplit(text)
    local = parse_qs(url.query).get("d", [""])[0]
    if local:
        return checked_reference(local)
    path = unquote(url.path)
    if not url.scheme and not path.startswith("/"):
        return checked_reference(path)
    name = checked_reference(posixpath.basename(path), text)
    if images is not None and (images.root / name).is_file():
        return name
    return _UPLOAD.sub("", name, count=1) if "/upload/" in path else name


def labels_of(regions: Sequence[dict[str, Any]]) -> dict[int, str]:
    """Class name of each region with a shape, by its index.

    A name may be in another result with the same id, if the labelling configuration has separate controls for names.

    Raises:
        FileError: a region has no name. InputError: a region has several names, or an unsupported type.
    """
    names: dict[str, list[str]] = {}
    for region in regions:
        value = region.get("value")
        for key, texts in value.items() if isinstance(value, dict) else ():
            if key.endswith("labels") and isinstance(texts, list):
                names.setdefault(str(region.get("id")), []).extend(str(text) for text in texts)
    labels = {}
    for index, region in enumerate(regions):
        kind = _kind(region)
        if kind is None:
            continue
        own = list(dict.fromkeys(names.get(str(region.get("id")), [])))
        if len(own) != 1:
            what = f"has the names {' and '.join(own[:3])}" if own else "has no name"
            raise (InputError if own else FileError)(f"region {index} ({kind}) {what}; expected one name per region")
        labels[index] = own[0]
    return labels


def _kind(region: dict[str, Any]) -> str | None:
    """Kind of shape of a result; None for a result without a shape."""
    kind, value = region.get("type"), region.get("value")
    if kind in _WITHOUT_PIXELS:
        return None
    if kind == "labels" and isinstance(value, dict):  # the name of another result, or a shape of its own
        keys = {"rle": "brush", "points": "polygon", "radiusX": "ellipse", "width": "rectangle"}
        return next((keys[key] for key in keys if key in value), None)
    if isinstance(kind, str) and kind.removesuffix("labels") in _KINDS:
        return kind.removesuffix("labels")
    raise InputError(
        f"a region of type {str(kind)[:40]!r} is not supported; expected {', '.join(_KINDS)}, with or without 'labels'"
    )


def size_of(regions: Sequence[dict[str, Any]]) -> Size | None:
    """(H, W) of the image as the regions state it; None if there is no region with a shape.

    Raises:
        InputError: the regions disagree, or the image is rotated.
    """
    sizes = set()
    for region in regions:
        if _kind(region) is not None:
            sizes.add(read_size(region, "original_height", "original_width"))
            if region.get("image_rotation"):
                raise InputError(f"its image is rotated by {region['image_rotation']} degrees; expected no rotation")
    if len(sizes) > 1:
        raise InputError(f"its regions state several sizes of the image: {sorted(map(str, sizes))}")
    return next(iter(sizes), None)


def shapes_of(regions: Sequence[dict[str, Any]], size: Size | None) -> list[Shape]:
    """The shapes of a task's regions; their coordinates are in percent of the image's width and height."""
    if size is None:
        return []
    check_pixels(size)
    shapes = []
    for index, label in labels_of(regions).items():
        kind = str(_kind(regions[index]))
        with error_context(f"region {index} ({kind}, {label})", ""):
            shapes.append(_shape(kind, label, field(regions[index], "value", dict), size))
    return shapes


def _shape(kind: str, label: str, value: dict[str, Any], size: Size) -> Shape:
    scale = np.array(size[::-1]) / 100
    if kind == "brush":
        if value.get("format", "rle") != "rle":
            raise FileError(f"its format is {str(value['format'])[:40]!r}; expected rle")
        return Shape(label, "brush", mask=mask_of_brush(field(value, "rle", list), size))
    if kind == "polygon":
        return Shape(label, "area", (points_of(field(value, "points", list), 3) * scale,))
    x, y = np.array([field(value, "x", float), field(value, "y", float)]) * scale
    if kind == "keypoint":
        return Shape(label, "stroke", (np.array([[x, y]]),))
    degrees = field(value, "rotation", float) if value.get("rotation") else 0.0
    if kind == "ellipse":
        radii = np.array([field(value, "radiusX", float), field(value, "radiusY", float)]) * scale
        return Shape(label, "area", (ellipse((x, y), (radii[0], radii[1]), degrees),))
    width, height = np.array([field(value, "width", float), field(value, "height", float)]) * scale
    return Shape(label, "area", (rotate(box(x, y, x + width, y + height), (x, y), degrees),))
