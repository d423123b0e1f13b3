"""Format `label-studio`: JSON of tasks with brush masks, polygons, boxes, ellipses and keypoints, in one file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from dense_ctx.errors import FileError, InputError
from dense_ctx.files import read_json, write_json, write_text

from .annotation import Annotation
from .base import Source
from .brush import brush_of_mask
from .classes import IGNORE_NAME, Classes, Colour
from .label_studio_regions import image_of, labels_of, shapes_of, size_of
from .parsing import MAX_BYTES, colour_of, field, hexadecimal, json_keys, read_xml
from .records import Record, Records, ShapeFormat, mask_in, order_of_names
from .shapes import Unlabelled, error_context


class LabelStudio(ShapeFormat):
    """`label-studio`: the JSON that Label Studio exports and imports (not JSON-MIN).

    Tasks without annotations are skipped. A brush mask may be a stroke or an area, so `unlabelled` must state what
    uncovered pixels are. Keypoints are strokes. The order and colours of the classes are those of the labelling
    configuration NAME.label_config.xml beside the file (the name that Label Studio's converter uses), which is written
    too; without it, names are sorted alphabetically.

    Args:
        shape: write each class as one "brush" mask, or each of its regions as a "polygon".
        choice: which annotation to use if a task has several and none is the ground truth: "first" or "last"; default:
            refuse such tasks.
        url: prefix of the image's path in a written task, such as "/data/local-files/?d=photos/".
        target: write "annotations", or "predictions" to be corrected in the tool.
    """

    title = "Label Studio JSON, brush masks, polygons, keypoints"
    suffix = ".json"
    scope = "data set"

    def __init__(
        self,
        unlabelled: Unlabelled | None = None,
        stroke_width: float = 3.0,
        order: Literal["file", "area"] = "file",
        shape: Literal["brush", "polygon"] = "brush",
        choice: Literal["first", "last"] | None = None,
        url: str = "",
        target: Literal["annotations", "predictions"] = "annotations",
    ) -> None:
        super().__init__(unlabelled, stroke_width, order)
        if shape not in ("brush", "polygon") or target not in ("annotations", "predictions"):
            raise InputError(
                f"label-studio: shape is brush or polygon, target annotations or predictions; got {shape!r}, {target!r}"
            )
        if choice not in (None, "first", "last"):
            raise InputError(f"label-studio: choice is first or last; got {choice!r}")
        self.shape, self.choice, self.url, self.target = shape, choice, url, target

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A JSON list of mappings with data and annotations."""
        return {"[]", "data", "annotations"} <= json_keys(path)

    def records(self, source: Source) -> Records:
        """The annotated tasks."""
        file = source.path
        tasks = read_json(file, MAX_BYTES)
        if not isinstance(tasks, list) or not all(isinstance(task, dict) and "data" in task for task in tasks):
            raise FileError(f"{file} is not a Label Studio file: expected the export JSON, a list of tasks with data")
        records: list[Record] = []
        names = set[str]()
        for index, task in enumerate(tasks):
            with error_context(file, f"task {task.get('id', index)}"):
                regions = self.regions(task)
                if regions is None:
                    continue
                names |= set(labels_of(regions).values())
                size = size_of(regions)
                image = image_of(task, source.images)
            records.append(Record(image, size, partial(shapes_of, regions, size), file))
        if not records:
            raise FileError(f"{file} has no annotated task among its {len(tasks)}")
        listed, colours = _read_config(_config(file))
        return Records(records, (*listed, *order_of_names(names - set(listed))), colours)

    def regions(self, task: dict[str, Any]) -> list[dict[str, Any]] | None:
        """The regions of a task's annotation; None where it has none.

        Raises:
            InputError: several annotations, and `choice` does not say which. FileError: no regions.
        """
        annotations = field(task, "annotations", list)
        if not all(isinstance(one, dict) for one in annotations):
            raise FileError("its annotations are not a list of mappings")
        annotations = [one for one in annotations if not one.get("was_cancelled")]
        if not annotations:
            return None
        if len(annotations) > 1:
            annotations = [one for one in annotations if one.get("ground_truth")] or annotations
        if len(annotations) > 1 and self.choice is None:
            raise InputError(f"it has {len(annotations)} annotations; choose one: choice=first or choice=last")
        result = field(annotations[0 if self.choice == "first" else -1], "result", list)
        if not all(isinstance(region, dict) for region in result):
            raise FileError("its result is not a list of regions")
        return result

    def save(self, path: Path, classes: Classes, annotations: Iterator[Annotation]) -> None:
        """Write tasks to import, and the labelling configuration beside them."""
        tasks = []
        for index, annotation in enumerate(annotations):
            content = {
                "result": self.result(annotation, str(index)),
                **({"model_version": "dense_ctx"} if self.target == "predictions" else {}),
            }
            tasks.append({"data": {"image": self.url + _in_url(annotation.image)}, self.target: [content]})
        write_json(path, tasks)
        tag = "BrushLabels" if self.shape == "brush" else "PolygonLabels"
        write_text(_config(path), _configuration(classes, tag))

    def result(
        self, annotation: Annotation, prefix: str, control: str = "label", target: str = "image"
    ) -> list[dict[str, Any]]:
        """The regions of a label map, as Label Studio has them.

        Args:
            prefix: of the regions' ids. control, target: names in the labelling configuration: of the labels, and of
                the image.
        """
        height, width = annotation.labels.shape
        common = {"original_width": width, "original_height": height, "image_rotation": 0, "from_name": control,
                  "to_name": target}  # fmt: skip
        regions: list[dict[str, Any]] = []
        if self.shape == "brush":
            for name, mask, (x, y) in self.masks(annotation):
                whole = mask_in(mask, (x, y), (height, width))
                value: dict[str, Any] = {"format": "rle", "rle": brush_of_mask(whole), "brushlabels": [name]}
                regions.append({"type": "brushlabels", "value": value, **common})
        else:
            for name, ring in self.polygons(annotation):
                points = (ring * (100 / width, 100 / height)).tolist()
                value = {"points": points, "closed": True, "polygonlabels": [name]}
                regions.append({"type": "polygonlabels", "value": value, **common})
        return [{**region, "id": f"{prefix}-{number}"} for number, region in enumerate(regions)]


def _config(path: Path) -> Path:
    return path.with_name(f"{path.stem}.label_config.xml")


def _read_config(path: Path) -> tuple[tuple[str, ...], dict[str, Colour]]:
    """Names and colours of a labelling configuration; none where there is no file."""
    if not path.is_file():
        return (), {}
    labels = [label for label in read_xml(path).iter("Label") if label.get("value")]
    colours = {str(label.get("value")): colour_of(label.get("background")) for label in labels}
    return tuple(colours), {name: colour for name, colour in colours.items() if colour is not None}


def _configuration(classes: Classes, tag: str) -> str:
    view = Element("View")
    SubElement(view, "Image", {"name": "image", "value": "$image"})
    labels = SubElement(view, tag, {"name": "label", "toName": "image"})
    for name, colour in zip((*classes.names, IGNORE_NAME), (*classes.colours, (128, 128, 128)), strict=True):
        SubElement(labels, "Label", {"value": name, "background": hexadecimal(colour)})
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def _in_url(image: str) -> str:
    """An image's path as a part of a URL: what would end it there is escaped."""
    return image.replace("%", "%25").replace("?", "%3F").replace("#", "%23").replace("&", "%26").replace("+", "%2B")
