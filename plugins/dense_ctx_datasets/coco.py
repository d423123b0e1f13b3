"""COCO 2017 images (Lin et al. 2014) with COCO-Stuff label maps (Caesar et al. 2018) or COCO instances."""

from __future__ import annotations

import contextlib
import io
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dense_ctx.containment import optional_package
from dense_ctx.data.base import IGNORED, DatasetReader, ImageSet, Layout, Sample, choose
from dense_ctx.errors import FileError, InputError

from .coco_labels import COARSE, FINE, THINGS, TO_COARSE, TO_FINE
from .files import pick, read_image, read_labels, refuse, require
from .pairs import PairSet, Present, first_folder, images_in, read_list, same_stem

if TYPE_CHECKING:
    from torch import Tensor

_LICENCE = "annotations CC BY 4.0; images from Flickr under its terms of use"
_IMAGES = ("[images/]<split>2017/*.jpg", "images")
_STUFF: dict[str, Any] = {
    "kind": "segmentation",
    "url": "https://github.com/nightrome/cocostuff (stuffthingmaps_trainval2017.zip), https://cocodataset.org (images)",
    "licence": _LICENCE,
    "splits": ("val", "train"),
    "expected": (
        _IMAGES,
        ("stuffthingmaps/<split>2017/*.png", "0..181, 255 unlabelled; or annotations/<split>2017"),
    ),
    "counts": {"val": 5000, "train": 118287},
    "options": (("names_file", "text file of image names (curated subsets): only those"),),
}


class CocoStuff27(DatasetReader):
    """`coco-stuff27`: 12 thing and 15 stuff super-categories, things first."""

    layout = Layout(
        name="coco-stuff27",
        title="COCO-Stuff, 27 super-categories",
        **{
            **_STUFF,
            "options": (
                *_STUFF["options"],
                (
                    "part",
                    '"all" (default); "things" or "stuff": those 12 or 15 in alphabetical order, the rest ignored',
                ),
            ),
        },
    )
    classes, table = COARSE, TO_COARSE

    def open(self, root: Path, split: str | None = None, names_file: str | None = None, part: str = "all") -> ImageSet:
        """Every image of a split, or those that a file names; all super-categories, or a `part` of them."""
        pick(part, ("all", "things", "stuff"), "part", self.layout)
        classes, table = self.classes, self.table
        if part != "all":
            inside = COARSE[: len(THINGS)] if part == "things" else COARSE[len(THINGS) :]
            classes = tuple(sorted(inside))
            table = tuple(classes.index(COARSE[k]) if k >= 0 and COARSE[k] in classes else IGNORED for k in TO_COARSE)
        return self._images(root, split, names_file, classes, table)

    def _images(
        self, root: Path, split: str | None, names_file: str | None, classes: tuple[str, ...], table: tuple[int, ...]
    ) -> ImageSet:
        folder = f"{choose(split, self.layout)}2017"
        images = first_folder([root / "images" / folder, root / folder], self.layout)
        targets = first_folder([root / "stuffthingmaps" / folder, root / "annotations" / folder], self.layout)
        paths = images_in(images)
        if names_file is not None:
            paths = [images / f"{Path(line.split()[0]).stem}.jpg" for line in read_list(Path(names_file))]
        read = partial(read_labels, classes=len(classes), table=table)
        return PairSet(same_stem(paths, targets), read, self.layout, classes=classes)


class CocoStuff171(CocoStuff27):
    """`coco-stuff171`: 80 thing and 91 stuff classes, in the order of their ids."""

    layout = Layout(name="coco-stuff171", title="COCO-Stuff, 171 classes", **_STUFF)
    classes, table = FINE, TO_FINE

    def open(self, root: Path, split: str | None = None, names_file: str | None = None) -> ImageSet:
        """Every image of a split, or those that a file names."""
        return self._images(root, split, names_file, self.classes, self.table)


class InstanceSet(ImageSet):
    """Instances as a label map: 1..n from the largest to the smallest, which lies on top; crowds are ignored.

    Every image of the annotation file is a sample, those without objects too (all 0).
    """

    kind = "instances"

    def __init__(self, images: Path, annotations: Path) -> None:
        self._coco = _load(annotations)
        present = Present()
        self._ids, names, problems = [], [], []
        for index in sorted(self._coco.imgs):
            path = images / self._coco.imgs[index]["file_name"]
            if path in present:
                self._ids.append(index)
                names.append(path.stem)
            else:
                problems.append(f"{annotations} names {path.name}, but {path} is missing")
        self._images, self.names, self.problems = images, names, problems

    def __getitem__(self, index: int) -> Sample:
        record = self._coco.imgs[self._ids[index]]
        path = self._images / record["file_name"]
        image = read_image(path)
        if tuple(image.shape[1:]) != (record["height"], record["width"]):
            raise InputError(
                f"{path} is {image.shape[1]} x {image.shape[2]} (H x W), its annotation "
                f"{record['height']} x {record['width']}"
            )
        return Sample(self.names[index], image, self._target(self._ids[index], (record["height"], record["width"])))

    def _target(self, image_id: int, size: tuple[int, int]) -> Tensor:
        import torch

        target = torch.zeros(size, dtype=torch.int64)
        annotations = self._coco.loadAnns(self._coco.getAnnIds(imgIds=[image_id]))
        masks = [(torch.from_numpy(self._coco.annToMask(a)).bool(), bool(a.get("iscrowd"))) for a in annotations]
        for mask, crowd in masks:
            if crowd:
                target[mask] = IGNORED
        objects = sorted((mask for mask, crowd in masks if not crowd), key=lambda mask: -int(mask.sum()))
        for number, mask in enumerate(objects, start=1):
            target[mask] = number
        return target


class CocoInstances(DatasetReader):
    """`coco-instances`."""

    layout = Layout(
        name="coco-instances",
        title="COCO 2017 instances",
        kind="instances",
        url="https://cocodataset.org",
        licence=_LICENCE,
        splits=("val", "train"),
        expected=(_IMAGES, ("annotations/instances_<split>2017.json", "instances, read through pycocotools")),
        counts={"val": 5000, "train": 118287},
    )

    def open(self, root: Path, split: str | None = None) -> ImageSet:
        """Instances of COCO 2017.

        Raises:
            MissingDependencyError: pycocotools is not installed.
        """
        split = choose(split, self.layout)
        annotations = require(root / "annotations" / f"instances_{split}2017.json", self.layout, "file")
        images = first_folder([root / "images" / f"{split}2017", root / f"{split}2017"], self.layout)
        instances = InstanceSet(images, annotations)
        if not instances.names and not instances.problems:
            raise refuse(self.layout, f"{annotations} names no images")
        return instances


def _load(annotations: Path) -> Any:
    coco = optional_package("pycocotools.coco", "data set 'coco-instances'", '"dense-ctx[datasets]"')
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            return coco.COCO(str(annotations))
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise FileError(f"{annotations} is not a COCO annotation file: {error!r}") from error
