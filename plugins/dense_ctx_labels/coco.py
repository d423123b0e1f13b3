"""Format `coco`: polygons and run-length masks of all images in one JSON file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dense_ctx.errors import FileError, InputError
from dense_ctx.files import read_json, write_json
from dense_ctx.interfaces import Size

from .annotation import Annotation
from .base import Source
from .classes import IGNORE_NAME, Classes, Colour
from .contours import area_of
from .parsing import MAX_BYTES, field, json_keys, read_size
from .records import Record, Records, ShapeFormat, mask_in
from .references import reference
from .rle import compressed, mask_of_runs, runs, uncompressed
from .shapes import Shape, Unlabelled, error_context, points_of


class Coco(ShapeFormat):
    """`coco`: instances, https://cocodataset.org/#format-data; a category may have a "color", as in panoptic files.

    Args:
        shape: write each class as one run-length mask ("rle"), or each of its regions as a "polygon".
        crowd: whether regions with `iscrowd` are ignored ("ignore"), as everywhere in dense_ctx, or are labels of their
            class ("class").
    """

    title = "COCO JSON, polygons and run-length masks"
    suffix = ".json"
    scope = "data set"

    def __init__(
        self,
        unlabelled: Unlabelled | None = None,
        stroke_width: float = 3.0,
        order: Literal["file", "area"] = "file",
        shape: Literal["rle", "polygon"] = "rle",
        crowd: Literal["ignore", "class"] = "ignore",
    ) -> None:
        super().__init__(unlabelled, stroke_width, order)
        if shape not in ("rle", "polygon") or crowd not in ("ignore", "class"):
            raise InputError(f"coco: shape is rle or polygon, crowd ignore or class; got {shape!r}, {crowd!r}")
        self.shape, self.crowd = shape, crowd

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """JSON with images, annotations and categories."""
        return {"images", "annotations", "categories"} <= json_keys(path)

    def records(self, source: Source) -> Records:
        """All images, those without annotations too."""
        file = source.path
        data = read_json(file, MAX_BYTES)
        with error_context(file, ""):
            names, colours = _categories(field(data, "categories", list))
            by_image: dict[Any, list[dict[str, Any]]] = {}
            for index, annotation in enumerate(field(data, "annotations", list)):
                with error_context(f"annotation {index}", ""):
                    by_image.setdefault(field(annotation, "image_id", int), []).append(annotation)
            records = []
            for image in field(data, "images", list):
                key = field(image, "id", int)
                name = reference(field(image, "file_name", str), file.parent, file.parent, source.images)
                if (size := read_size(image, "height", "width")) is None:
                    raise FileError(f"the image {name} has no height and width")
                shapes = partial(self._shapes, by_image.pop(key, []), size, names)
                records.append(Record(name, size, shapes, file))
            if by_image:
                raise FileError(f"annotations name the image {next(iter(by_image))}, which occurs never or twice")
        return Records(records, tuple(names.values()), colours)

    def _shapes(self, annotations: list[dict[str, Any]], size: Size, names: dict[int, str]) -> list[Shape]:
        shapes = []
        for annotation in annotations:
            with error_context(f"annotation {annotation.get('id')}", ""):
                category = field(annotation, "category_id", int)
                if category not in names:
                    raise FileError(f"there is no category {category}")
                ignored = self.crowd == "ignore" and annotation.get("iscrowd")
                shapes += _parts(annotation, IGNORE_NAME if ignored else names[category], size)
        return shapes

    def save(self, path: Path, classes: Classes, annotations: Iterator[Annotation]) -> None:
        """Write categories with the ids of the classes; background only if it has shapes."""
        images: list[dict[str, Any]] = []
        parts: list[dict[str, Any]] = []
        ids = {name: index for index, name in enumerate(classes.names)} | {IGNORE_NAME: len(classes)}
        for annotation in annotations:
            height, width = annotation.labels.shape
            images.append({"id": len(images) + 1, "file_name": annotation.image, "height": height, "width": width})
            for name, segmentation, area, box in self._segmentations(annotation):
                parts.append({"id": len(parts) + 1, "image_id": len(images), "category_id": ids[name],
                              "segmentation": segmentation, "area": area, "bbox": box,
                              "iscrowd": int(name == IGNORE_NAME)})  # fmt: skip
        used = {part["category_id"] for part in parts}
        categories = [
            {"id": index, "name": name, "supercategory": "", "color": list(colour)}
            for index, (name, colour) in enumerate(zip(classes.names, classes.colours, strict=True))
            if index in used or index != 0 or classes.background != 0
        ]
        if len(classes) in used:
            categories.append({"id": len(classes), "name": IGNORE_NAME, "supercategory": ""})
        write_json(path, {"info": {}, "licenses": [], "images": images, "annotations": parts, "categories": categories})

    def _segmentations(self, annotation: Annotation) -> Iterator[tuple[str, Any, int, list[int]]]:
        """Name, segmentation, area and box of each shape to write."""
        height, width = annotation.labels.shape
        if self.shape == "polygon":
            for name, ring in self.polygons(annotation):
                low, high = ring.min(0).astype(int).tolist(), ring.max(0).astype(int).tolist()
                box = [*low, high[0] - low[0], high[1] - low[1]]
                yield name, [ring.ravel().tolist()], int(abs(area_of(ring))), box
            return
        for name, mask, (x, y) in self.masks(annotation):
            counts = compressed(runs(mask_in(mask, (x, y), (height, width)).T.ravel()))
            box = [x, y, mask.shape[1], mask.shape[0]]
            yield name, {"size": [height, width], "counts": counts}, int(mask.sum()), box


def _categories(records: list[Any]) -> tuple[dict[int, str], dict[str, Colour]]:
    names: dict[int, str] = {}
    colours: dict[str, Colour] = {}
    for record in records:
        key, name = field(record, "id", int), field(record, "name", str)
        if key in names or name in names.values():
            raise FileError(f"the category {key} ({name}) occurs twice")
        names[key] = name
        colour = record.get("color")
        if isinstance(colour, list) and len(colour) == 3 and all(isinstance(part, int) for part in colour):
            colours[name] = colour[0], colour[1], colour[2]
    return names, colours


def _parts(annotation: dict[str, Any], label: str, size: Size) -> list[Shape]:
    """The shapes of an annotation: the union of its polygons, or its mask."""
    data = annotation.get("segmentation")
    if not data:
        raise InputError("it has no segmentation; a box or keypoints do not label pixels")
    if isinstance(data, list):
        return [Shape(label, "area", (points_of(polygon, 3),)) for polygon in data]
    if field(data, "size", list) != list(size):
        raise InputError(f"its mask is {data['size']} (H, W); the image is {list(size)}")
    counts = data.get("counts")
    lengths = uncompressed(counts) if isinstance(counts, str) else field(data, "counts", list)
    return [Shape(label, "mask", mask=mask_of_runs(lengths, size, columns=True))]
