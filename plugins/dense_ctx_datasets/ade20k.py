"""ADE20K, the scene parsing benchmark's 150 classes (Zhou et al. 2017)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dense_ctx.data.base import IGNORED, DatasetReader, ImageSet, Layout, choose

from .files import comma_separated, inside, pick, read_labels, require
from .pairs import PairSet, images_in, same_stem

CLASSES = comma_separated(
    "wall,building,sky,floor,tree,ceiling,road,bed,windowpane,grass,cabinet,sidewalk,person,earth,door,table,mountain,"
    "plant,curtain,chair,car,water,painting,sofa,shelf,house,sea,mirror,rug,field,armchair,seat,fence,desk,rock,"
    "wardrobe,lamp,bathtub,railing,cushion,base,box,column,signboard,chest of drawers,counter,sand,sink,skyscraper,"
    "fireplace,refrigerator,grandstand,path,stairs,runway,case,pool table,pillow,screen door,stairway,river,bridge,"
    "bookcase,blind,coffee table,toilet,flower,book,hill,bench,countertop,stove,palm,kitchen island,computer,"
    "swivel chair,boat,bar,arcade machine,hovel,bus,towel,light,truck,tower,chandelier,awning,streetlight,booth,"
    "television receiver,airplane,dirt track,apparel,pole,land,bannister,escalator,ottoman,bottle,buffet,poster,stage,"
    "van,ship,fountain,conveyer belt,canopy,washer,plaything,swimming pool,stool,barrel,basket,waterfall,tent,bag,"
    "minibike,cradle,oven,ball,food,step,tank,trade name,microwave,pot,animal,bicycle,lake,dishwasher,screen,blanket,"
    "sculpture,hood,sconce,vase,traffic light,tray,ashcan,fan,pier,crt screen,plate,monitor,bulletin board,shower,"
    "radiator,glass,clock,flag"
)
_FOLDERS = {"train": "training", "val": "validation"}


class Ade20k(DatasetReader):
    """`ade20k`."""

    layout = Layout(
        name="ade20k",
        title="ADE20K, scene parsing (ADEChallengeData2016)",
        kind="segmentation",
        url="http://sceneparsing.csail.mit.edu",
        licence="images: research use only; annotations: BSD 3-clause as stated by the authors",
        splits=("val", "train"),
        expected=(
            ("[ADEChallengeData2016/]images/training|validation/*.jpg", "images"),
            ("... annotations/training|validation/*.png", "0 other (ignored), 1..150"),
        ),
        counts={"val": 2000, "train": 20210},
        options=(
            ("other", '"ignored" (default); "class": class 0 of 151; "train": so in the split train, ignored in val'),
        ),
    )

    def open(self, root: Path, split: str | None = None, other: str = "ignored") -> ImageSet:
        """150 classes (files' 1..150 become 0..149); 0 is ignored, as in the benchmark, or `other` is a class too."""
        split = choose(split, self.layout)
        pick(other, ("ignored", "class", "train"), "other", self.layout)
        folder = _FOLDERS[split]
        root = inside(root, "ADEChallengeData2016")
        images = require(root / "images" / folder, self.layout)
        targets = require(root / "annotations" / folder, self.layout)
        if other == "ignored":
            read, classes = partial(read_labels, classes=150, ignore=(), table=(IGNORED, *range(150))), CLASSES
        else:
            first = 0 if other == "class" or split == "train" else IGNORED
            read, classes = (
                partial(read_labels, classes=151, ignore=(), table=(first, *range(1, 151))),
                ("other", *CLASSES),
            )
        return PairSet(same_stem(images_in(images), targets), read, self.layout, classes=classes)
