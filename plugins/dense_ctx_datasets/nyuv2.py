"""NYU Depth v2, the 1449 labelled frames (Silberman et al. 2012): depth, 40 classes (Gupta et al. 2013), normals."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dense_ctx.data.base import IGNORED, DatasetReader, ImageSet, Kind, Layout, choose

from .files import comma_separated, pick, read_labels, refuse, require
from .geometric import normals_of, signed
from .geometric_files import read_depth, read_normals
from .nyuv2_mat import MatSet
from .pairs import Pair, PairSet, images_in

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = comma_separated(
    "wall,floor,cabinet,bed,chair,sofa,table,door,window,bookshelf,picture,counter,blinds,desk,shelves,curtain,dresser,"
    "pillow,mirror,floor mat,clothes,ceiling,books,refrigerator,television,paper,towel,shower curtain,box,whiteboard,"
    "person,night stand,toilet,sink,lamp,bathtub,bag,other structure,other furniture,other prop"
)
# the colour camera in the data set's own toolbox (camera_params.m): fx, fy, cx, cy at 480 x 640
INTRINSICS = (518.857901, 519.469611, 325.582449, 253.736166)
# the published pictures hold normals that point away from the camera; ours point at it
SIGNS = "---"
TABLE40 = (IGNORED, *range(40))


_KINDS: dict[str, Kind] = {"depth": "depth", "segmentation": "segmentation", "normals": "normals"}


class Nyuv2(DatasetReader):
    """`nyuv2`."""

    layout = Layout(
        name="nyuv2",
        title="NYU Depth v2, labelled frames",
        kind="depth",
        url="https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
        licence="stated by no file of the data set; research use: read the site",
        splits=("test", "train"),
        expected=(
            ("nyu_depth_v2_labeled.mat", "images, depths, labels; read through h5py"),
            ("splits.mat", "trainNdxs, testNdxs"),
            ("classMapping40.mat", 'target="segmentation": mapClass, 894 labels to 40'),
            (
                "normals_gt/normals/NNNN.png",
                'target="normals": RGB, by frame from 0000; computed from depth when missing',
            ),
            ("normals_gt/masks/NNNN.png", "0 where there is no normal"),
            ("or extracted, <split>/rgb/NNNN.png", "images (.jpg too)"),
            ("   <split>/depth/NNNN.png", "16-bit, millimetres; 0 and 65535: none"),
            ("   <split>/seg40/NNNN.png", "0 ignored, 1..40"),
            ("   <split>/normals/NNNN.png, masks/NNNN.png", "as above; computed from depth when missing"),
        ),
        counts={"test": 654, "train": 795},
        options=(
            ("target", '"depth" (default), "segmentation" or "normals"'),
            ("raw", "true: the sensor's depth with its holes, not the filled one (.mat only)"),
            (
                "signs",
                f'of the normals\' x, y, z in the files, to come to x right, y down, z into the scene: "{SIGNS}"',
            ),
        ),
    )

    def open(
        self, root: Path, split: str | None = None, target: str = "depth", raw: bool = False, signs: str = SIGNS
    ) -> ImageSet:
        """Depth in metres, 40 classes (0 ignored), or normals.

        Raises:
            FileError: neither the .mat file nor the extracted folder is there, or a file is damaged.
            MissingDependencyError: h5py, for the .mat file, is not installed.
        """
        split = choose(split, self.layout)
        kind = _KINDS[pick(target, tuple(_KINDS), "target", self.layout)]
        axes = signed(signs, "nyuv2")
        classes = CLASSES if kind == "segmentation" else ()
        if (root / "nyu_depth_v2_labeled.mat").exists():
            splits = require(root / "splits.mat", self.layout, "file")
            return MatSet(root, splits, split, kind, classes, raw, axes, INTRINSICS)
        folder = require(root / split, self.layout) if root.is_dir() else require(root, self.layout)
        images = images_in(require(folder / "rgb", self.layout))
        if not images:
            raise refuse(self.layout, f"{folder / 'rgb'} holds no images")
        stored = {"depth": "depth", "segmentation": "seg40", "normals": "normals"}[kind]
        if kind == "normals" and not (folder / "normals").is_dir():
            stored = "depth"
        targets = require(folder / stored, self.layout)
        pairs = [Pair(path.stem, path, targets / f"{path.stem}.png") for path in images]
        if kind == "segmentation":
            return PairSet(
                pairs, partial(read_labels, classes=40, ignore=(255,), table=TABLE40), self.layout, kind, classes
            )
        if kind == "depth":
            return PairSet(pairs, partial(read_depth, scale=1000), self.layout, kind)
        if stored == "depth":
            return PairSet(pairs, _computed, self.layout, kind)
        masks = folder / "masks" if (folder / "masks").is_dir() else None
        return PairSet(pairs, partial(_stored, signs=axes, masks=masks), self.layout, kind)


def _computed(path: Path) -> Tensor:
    return normals_of(read_depth(path, 1000), INTRINSICS)


def _stored(path: Path, signs: tuple[float, ...], masks: Path | None) -> Tensor:
    return read_normals(path, signs, None if masks is None else masks / path.name)
