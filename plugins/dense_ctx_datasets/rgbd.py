"""A folder of RGB-D frames and camera intrinsics, as in 7-Scenes and the TSDF-fusion examples."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dense_ctx.data.base import DatasetReader, ImageSet, Kind, Layout, choose
from dense_ctx.errors import FileError, InputError

from .files import pick, refuse, require
from .geometric import Intrinsics, normals_of
from .geometric_files import read_depth
from .pairs import Pair, PairSet, images_in

if TYPE_CHECKING:
    from torch import Tensor


class RgbdFolder(DatasetReader):
    """`rgbd-folder`."""

    layout = Layout(
        name="rgbd-folder",
        title="RGB-D frames of one scene",
        kind="depth",
        url="your own files",
        licence="your own files",
        splits=("val", "train", "all"),
        expected=(
            ("frame-*.color.jpg", "images (.png too)"),
            ("frame-*.depth.png", "16-bit, millimetres; 0 and 65535: none"),
            ("camera-intrinsics.txt", "3 x 3 matrix in pixels"),
        ),
        options=(
            ("target", '"depth" (default) or "normals", computed from depth and camera'),
            ("scale", "values per metre, 1000"),
            ("train_share", "0.6: the first 60 % of the frames train, the rest val, never interleaved"),
        ),
    )

    def open(
        self, root: Path, split: str | None = None, target: str = "depth", scale: float = 1000, train_share: float = 0.6
    ) -> ImageSet:
        """Depth or normals. Neighbouring frames are similar, so train and val are two consecutive parts."""
        split = choose(split, self.layout)
        kind: Kind = "normals" if pick(target, ("depth", "normals"), "target", self.layout) == "normals" else "depth"
        if not 0 < train_share < 1 or not scale > 0:
            raise InputError(f"train_share lies between 0 and 1, scale above 0; got {train_share} and {scale}")
        require(root, self.layout)
        camera = read_intrinsics(require(root / "camera-intrinsics.txt", self.layout, "file"))
        images = [path for path in images_in(root) if path.stem.endswith(".color")]
        if not images:
            raise refuse(self.layout, f"{root} holds no frame-*.color.jpg")
        cut = round(len(images) * train_share)
        images = {"train": images[:cut], "val": images[cut:], "all": images}[split]
        if not images:
            raise refuse(self.layout, f"{root} has too few frames for the split {split}")
        pairs = []
        for path in images:
            name = path.stem.removesuffix(".color")
            pairs.append(Pair(name, path, root / f"{name}.depth.png"))
        read = partial(_normals, scale=scale, camera=camera) if kind == "normals" else partial(read_depth, scale=scale)
        return PairSet(pairs, read, self.layout, kind=kind)


def _normals(path: Path, scale: float, camera: Intrinsics) -> Tensor:
    return normals_of(read_depth(path, scale), camera)


def read_intrinsics(path: Path) -> Intrinsics:
    """(fx, fy, cx, cy) of a 3 x 3 matrix in a text file.

    Raises:
        FileError: not nine numbers, or no camera matrix.
    """
    try:
        rows = [float(word) for word in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError) as error:
        raise FileError(f"{path} is not a matrix of numbers: {error}") from error
    if len(rows) != 9 or rows[0] <= 0 or rows[4] <= 0:
        raise FileError(f"{path} is not a 3 x 3 camera matrix: fx 0 cx / 0 fy cy / 0 0 1")
    return rows[0], rows[4], rows[2], rows[5]
