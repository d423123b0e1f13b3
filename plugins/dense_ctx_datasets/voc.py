"""Pascal VOC 2012 (Everingham et al. 2015) and Pascal Context (Mottaghi et al. 2014)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dense_ctx.data.base import IGNORED, DatasetReader, ImageSet, Layout, choose
from dense_ctx.errors import InputError

from .files import comma_separated, inside, read_labels, require
from .pairs import Pair, PairSet, read_list

if TYPE_CHECKING:
    from torch import Tensor

VOC_CLASSES = comma_separated(
    "background,aeroplane,bicycle,bird,boat,bottle,bus,car,cat,chair,cow,dining table,dog,horse,motorbike,person,"
    "potted plant,sheep,sofa,train,tv monitor"
)
CONTEXT_CLASSES = comma_separated(
    "aeroplane,bag,bed,bedclothes,bench,bicycle,bird,boat,book,bottle,building,bus,cabinet,car,cat,ceiling,chair,"
    "cloth,computer,cow,cup,curtain,dog,door,fence,floor,flower,food,grass,ground,horse,keyboard,light,motorbike,"
    "mountain,mouse,person,plate,platform,potted plant,road,rock,sheep,shelves,sidewalk,sign,sky,snow,sofa,table,"
    "track,train,tree,truck,tv monitor,wall,water,window,wood"
)


class Voc2012(DatasetReader):
    """`voc2012`."""

    layout = Layout(
        name="voc2012",
        title="Pascal VOC 2012",
        kind="segmentation",
        url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
        licence="images from Flickr under its terms of use; research use",
        splits=("val", "train", "trainval", "trainaug"),
        expected=(
            ("[VOCdevkit/][VOC2012/]JPEGImages/<id>.jpg", "images; the root may be any of the three folders"),
            ("... SegmentationClass/<id>.png", "palette: 0..20, 255 void"),
            ("... SegmentationObject/<id>.png", "with instances=true: 0 background, 1..n, 255 void"),
            ("... ImageSets/Segmentation/<split>.txt", "ids"),
            ("... SegmentationClassAug/<id>.png", "of trainaug: with SBD's annotations (Hariharan et al. 2011)"),
            ("... ImageSets/SegmentationAug/trainaug.txt", "ids of trainaug; or sets/trainaug.txt"),
        ),
        counts={"val": 1449, "train": 1464, "trainval": 2913, "trainaug": 10582},
        options=(("instances", "true: objects instead of classes"),),
    )

    def open(self, root: Path, split: str | None = None, instances: bool = False) -> ImageSet:
        """21 classes, or objects 1..n with `instances`; the void border is ignored.

        Raises:
            InputError: `instances` of trainaug, which has classes only.
        """
        split = choose(split, self.layout)
        root = inside(root, "VOCdevkit/VOC2012", "VOC2012")
        read = partial(read_labels, classes=255 if instances else 21)
        if split == "trainaug":
            if instances:
                raise InputError("voc2012: the split trainaug has classes only; instances are those of train and val")
            lists = [root / folder / "trainaug.txt" for folder in ("ImageSets/SegmentationAug", "sets")]
            names = next((path for path in lists if path.is_file()), lists[0])
            return PairSet(
                _pairs(root, names, "SegmentationClassAug", self.layout), read, self.layout, classes=VOC_CLASSES
            )
        folder = "SegmentationObject" if instances else "SegmentationClass"
        pairs = _pairs(root, root / "ImageSets" / "Segmentation" / f"{split}.txt", folder, self.layout)
        if instances:
            return PairSet(pairs, read, self.layout, kind="instances")
        return PairSet(pairs, read, self.layout, classes=VOC_CLASSES)


class PascalContext(DatasetReader):
    """`pascal-context`."""

    layout = Layout(
        name="pascal-context",
        title="Pascal Context, 59 classes",
        kind="segmentation",
        url="https://cs.stanford.edu/~roozbeh/pascal-context",
        licence="annotations: research use; images as Pascal VOC 2010",
        splits=("val", "train"),
        expected=(
            ("[VOCdevkit/][VOC2010/]JPEGImages/<id>.jpg", "images; the root may be any of the three folders"),
            ("... SegmentationClassContext/<id>.png", "0 background, 1..59: what mmsegmentation's converter writes"),
            ("... ImageSets/SegmentationContext/<split>.txt", "ids, by the same converter"),
        ),
        counts={"val": 5104, "train": 4996},
        options=(("background", "true: 60 classes, background is class 0; default: 59, background ignored"),),
    )

    def open(self, root: Path, split: str | None = None, background: bool = False) -> ImageSet:
        """59 classes (files' 1..59 become 0..58), or 60 with the background as class 0."""
        split = choose(split, self.layout)
        root = inside(root, "VOCdevkit/VOC2010", "VOC2010")
        names = root / "ImageSets" / "SegmentationContext" / f"{split}.txt"
        pairs = _pairs(root, names, "SegmentationClassContext", self.layout)
        classes = ("background", *CONTEXT_CLASSES) if background else CONTEXT_CLASSES
        return PairSet(pairs, _read_background if background else _read_context, self.layout, classes=classes)


def _read_background(path: Path) -> Tensor:
    return read_labels(path, classes=60)


def _read_context(path: Path) -> Tensor:
    return read_labels(path, classes=59, table=(IGNORED, *range(59)))


def _pairs(root: Path, names: Path, folder: str, layout: Layout) -> list[Pair]:
    images = root / "images" if not (root / "JPEGImages").is_dir() and (root / "images").is_dir() else None
    images = images or require(root / "JPEGImages", layout)
    targets = require(root / folder, layout)
    ids = read_list(require(names, layout, "file"))
    return [Pair(name, images / f"{name}.jpg", targets / f"{name}.png") for name in ids]
