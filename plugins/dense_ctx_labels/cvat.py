"""Format `cvat`: XML of "CVAT for images 1.1" and the tracks of "CVAT for video 1.1", all images in one file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from dense_ctx.errors import FileError, InputError
from dense_ctx.files import new_file
from dense_ctx.interfaces import Size

from .annotation import Annotation
from .base import Source
from .classes import IGNORE_NAME, Classes, Colour
from .parsing import colour_of, hexadecimal, read_xml
from .raster import Points, box, ellipse, rotate
from .records import Record, Records, ShapeFormat
from .references import reference
from .rle import mask_of_runs, runs
from .shapes import Shape, Unlabelled, check_pixels, error_context, points_of

_WITHOUT_PIXELS = ("tag", "attribute")


class Cvat(ShapeFormat):
    """`cvat` (https://docs.cvat.ai/docs/manual/advanced/xml_format/).

    Polygons, boxes, ellipses and masks are areas; polylines and points are strokes; cuboids and skeletons are refused.
    Shapes with a higher `z_order` are on top. Frames of tracks are images called frame_000000, as CVAT names them;
    shapes marked "outside" in a frame are not used there.

    Args:
        shape: write each class as one "mask", or each of its regions as a "polygon".
    """

    title = "CVAT XML for images (tracks of video too), polygons, masks, polylines"
    suffix = ".xml"
    scope = "data set"

    def __init__(
        self,
        unlabelled: Unlabelled | None = None,
        stroke_width: float = 3.0,
        order: Literal["file", "area"] = "file",
        shape: Literal["mask", "polygon"] = "mask",
    ) -> None:
        super().__init__(unlabelled, stroke_width, order)
        if shape not in ("mask", "polygon"):
            raise InputError(f"cvat: shape is mask or polygon; got {shape!r}")
        self.shape = shape

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """XML whose root is called annotations."""
        return path.suffix.lower() == ".xml" and path.is_file() and read_xml(path).tag == "annotations"

    def records(self, source: Source) -> Records:
        """All images, those without shapes too."""
        root = read_xml(source.path)
        if root.tag != "annotations":
            raise FileError(f"{source.path} is not a CVAT file: its root is {root.tag!r}, not 'annotations'")
        with error_context(source.path, ""):
            names, colours = _labels(root)
            records = [_record(image, source) for image in root.iter("image")]
            records += _frames(root, source)
        return Records(records, names, colours)

    def save(self, path: Path, classes: Classes, annotations: Iterator[Annotation]) -> None:
        """Write the labels in the header, as CVAT exports a task."""
        root = Element("annotations")
        _add(root, "version", "1.1")
        labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
        for name, colour in zip(classes.names, classes.colours, strict=True):
            _add_label(labels, name, colour)
        for index, annotation in enumerate(annotations):
            height, width = annotation.labels.shape
            attributes = {"id": str(index), "name": annotation.image, "width": str(width), "height": str(height)}
            image = ElementTree.SubElement(root, "image", attributes)
            common = {"source": "auto", "occluded": "0", "z_order": "0"}
            if self.shape == "polygon":
                for name, ring in self.polygons(annotation):
                    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in ring.tolist())
                    ElementTree.SubElement(image, "polygon", {"label": name, "points": points, **common})
                continue
            for name, mask, (x, y) in self.masks(annotation):
                lengths = ", ".join(map(str, runs(mask.ravel())))
                window = {"left": str(x), "top": str(y), "width": str(mask.shape[1]), "height": str(mask.shape[0])}
                ElementTree.SubElement(image, "mask", {"label": name, "rle": lengths, **window, **common})
        if any(shape.get("label") == IGNORE_NAME for shape in root.iterfind("image/*")):
            _add_label(labels, IGNORE_NAME, (128, 128, 128))
        ElementTree.indent(root)
        with new_file(path) as unfinished:
            ElementTree.ElementTree(root).write(unfinished, encoding="utf-8", xml_declaration=True)


def _add(parent: Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = text


def _add_label(labels: Element, name: str, colour: Colour) -> None:
    label = ElementTree.SubElement(labels, "label")
    _add(label, "name", name)
    _add(label, "color", hexadecimal(colour))


def _labels(root: Element) -> tuple[tuple[str, ...], dict[str, Colour]]:
    names: list[str] = []
    colours: dict[str, Colour] = {}
    for label in root.iterfind("meta//label"):
        name = label.findtext("name") or ""
        if name in names:
            continue  # listed for the project and again for its task
        names.append(name)
        if (colour := colour_of(label.findtext("color"))) is not None:
            colours[name] = colour
    labels = [e.get("label") for e in root.iter() if e.tag not in _WITHOUT_PIXELS]
    return (*names, *sorted({name for name in labels if name and name not in names})), colours


def _record(image: Element, source: Source) -> Record:
    name = reference(image.get("name"), source.path.parent, source.path.parent, source.images)
    with error_context(name, ""):
        size = _whole(image, "height"), _whole(image, "width")
    return Record(name, size, partial(_shapes, [(e, e.get("label")) for e in image], size), source.path)


def _frames(root: Element, source: Source) -> list[Record]:
    """The frames in which tracks have shapes."""
    frames: dict[int, list[tuple[Element, str | None]]] = {}
    for track in root.iter("track"):
        for element in track:
            if element.tag not in _WITHOUT_PIXELS:
                shapes = frames.setdefault(_whole(element, "frame"), [])
                if element.get("outside") != "1":
                    shapes.append((element, track.get("label")))
    if not frames:
        return []
    original = root.find("meta//original_size")
    if original is None:
        raise FileError("it has tracks but no original_size, the size of the frames")
    size = int(original.findtext("height") or 0), int(original.findtext("width") or 0)
    records = []
    for frame, shapes in sorted(frames.items()):
        stem = f"frame_{frame:06d}"
        name = source.images.with_stem(stem) if source.images else f"{stem}.png"
        records.append(Record(name, size, partial(_shapes, shapes, size), source.path))
    return records


def _shapes(elements: list[tuple[Element, str | None]], size: Size) -> list[Shape]:
    check_pixels(size)
    shapes = []
    for index, (element, label) in enumerate(elements):
        if element.tag in _WITHOUT_PIXELS:
            continue
        with error_context(f"{element.tag} {index} ({label})", ""):
            if label is None:
                raise FileError("it has no label")
            order = int(element.get("z_order", "0")) if element.get("z_order", "0").lstrip("-").isdecimal() else 0
            shapes.append((order, _shape(element, label, size)))
    return [shape for _, shape in sorted(shapes, key=lambda item: item[0])]


def _shape(element: Element, label: str, size: Size) -> Shape:
    if element.tag == "mask":
        x, y = _whole(element, "left"), _whole(element, "top")
        extent = _whole(element, "height"), _whole(element, "width")
        if x + extent[1] > size[1] or y + extent[0] > size[0]:
            raise InputError(
                f"its box extends to ({x + extent[1]}, {y + extent[0]}); the image is {size[1]} x {size[0]}"
            )
        lengths = [int(run) if run.strip().isdecimal() else -1 for run in element.get("rle", "").split(",")]
        return Shape(label, "mask", mask=mask_of_runs(lengths, extent, columns=False), offset=(x, y))
    if element.tag in ("polyline", "points"):
        points = _points(element, 1)
        return Shape(label, "stroke", tuple(p[None] for p in points) if element.tag == "points" else (points,))
    if element.tag == "polygon":
        return Shape(label, "area", (_points(element, 3),))
    degrees = _number(element, "rotation", 0.0)
    if element.tag == "box":
        left, top, right, bottom = (_number(element, key) for key in ("xtl", "ytl", "xbr", "ybr"))
        ring = rotate(box(left, top, right, bottom), ((left + right) / 2, (top + bottom) / 2), degrees)
        return Shape(label, "area", (ring,))
    if element.tag == "ellipse":
        centre = _number(element, "cx"), _number(element, "cy")
        return Shape(label, "area", (ellipse(centre, (_number(element, "rx"), _number(element, "ry")), degrees),))
    raise InputError(f"a {element.tag} does not label pixels; expected polygons, masks, boxes, ellipses, polylines or "
                     "points")  # fmt: skip


def _points(element: Element, least: int) -> Points:
    text = element.get("points", "")
    try:
        values = [[float(part) for part in pair.split(",")] for pair in text.split(";")]
    except ValueError:
        raise FileError(f"its points are not x,y;x,y; got {text[:80]!r}") from None
    return points_of(values, least)


def _number(element: Element, key: str, default: float | None = None) -> float:
    text = element.get(key)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = None
    if value is None:
        raise FileError(f"its {key} is a number; got {text!r}")
    if not np.isfinite(value):
        raise InputError(f"its {key} is NaN or infinite")
    return value


def _whole(element: Element, key: str) -> int:
    value = _number(element, key)
    if value != int(value) or value < 0:
        raise FileError(f"its {key} is a whole number, at least 0; got {element.get(key)!r}")
    return int(value)
