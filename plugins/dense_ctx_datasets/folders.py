"""Images with masks, depth, normals or instances in two folders: the user's own data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dense_ctx.data.base import DatasetReader, ImageSet, Layout
from dense_ctx.errors import InputError

from .files import pick, read_labels, refuse, require
from .geometric import signed
from .geometric_files import read_depth, read_normals
from .pairs import Pair, PairSet, images_in, read_list

if TYPE_CHECKING:
    from torch import Tensor


_SUFFIXES = {
    "segmentation": (".png",),
    "instances": (".png",),
    "depth": (".npy", ".png"),
    "normals": (".npy", ".png"),
}


class ImageFolder(DatasetReader):
    """`image-folder`."""

    layout = Layout(
        name="image-folder",
        title="Your own images with annotations",
        kind="segmentation",
        url="your own files",
        licence="your own files",
        splits=("all", "train", "val", "test"),
        own_splits=True,
        expected=(
            ("images/*.jpg, labels/*", "without splits; labels have their image's stem"),
            ("<split>/images/*.jpg, <split>/labels/*", "with splits, of any names"),
            ("classes.txt", "names of the classes, one a line; or the option classes"),
        ),
        options=(
            ("kind", '"segmentation" (default: PNG of ids), "instances", "depth" (.npy or 16-bit PNG) or "normals"'),
            ("classes", "their number, or their names (a list, or text with commas)"),
            ("ignore", "value of the masks that means not annotated, 255"),
            ("scale", "values of the depth files per metre, 1 for .npy, 1000 for PNG"),
            ("signs", 'signs of the normals\' x, y, z, "+++" for x right, y down, z into the scene'),
        ),
    )

    def open(
        self,
        root: Path,
        split: str | None = None,
        kind: str = "segmentation",
        classes: int | str | Sequence[str] | None = None,
        ignore: int = 255,
        scale: float | None = None,
        signs: str = "+++",
    ) -> ImageSet:
        """Your own images with annotations.

        Raises:
            InputError: no such split, segmentation without classes.
            FileError: no images.
        """
        pick(kind, tuple(_SUFFIXES), "kind", self.layout)
        if scale is not None and not scale > 0:
            raise InputError(f"scale is above 0; got {scale}")
        folder = _folder(require(root, self.layout), split, self.layout)
        images = images_in(folder / "images")
        if not images:
            raise refuse(self.layout, _swapped(folder) or f"{folder / 'images'} holds no images")
        targets = require(folder / "labels", self.layout)
        present = {path.name for path in targets.iterdir()}
        pairs = []
        for path in images:
            files = [f"{path.stem}{suffix}" for suffix in _SUFFIXES[kind]]
            pairs.append(Pair(path.stem, path, targets / next((name for name in files if name in present), files[0])))
        names = _classes(classes, root) if kind == "segmentation" else ()
        read: Callable[[Path], Tensor]
        if kind == "depth":
            read = partial(_depth, scale=scale)
        elif kind == "normals":
            read = partial(read_normals, signs=signed(signs, "image-folder"))
        else:
            read = partial(read_labels, classes=len(names) if names else 65535, ignore=(ignore,))
        return PairSet(pairs, read, self.layout, kind=kind, classes=names)  # type: ignore[arg-type]  # checked by pick


def _depth(path: Path, scale: float | None) -> Tensor:
    return read_depth(path, scale or (1.0 if path.suffix == ".npy" else 1000.0))


def _folder(root: Path, split: str | None, layout: Layout) -> Path:
    """The folder of a split. Default: the root if it has no splits, otherwise `val` or the first split."""
    if split in (None, "all") and (root / "images").is_dir():
        return root
    splits = sorted(path.name for path in root.iterdir() if (path / "images").is_dir())
    swapped = _swapped(root)
    if not splits and (swapped or not (root / "images").is_dir()):
        raise refuse(layout, swapped or f"{root} holds no folder images")
    if not splits:
        raise InputError(f"image-folder: {root} has no split {split!r}: {root / 'images'} is not divided")
    if split is None:
        return root / ("val" if "val" in splits else splits[0])
    if split not in splits:
        raise InputError(f"image-folder: {root} has no split {split!r}; it has {', '.join(splits)}")
    return root / split


def _swapped(root: Path) -> str:
    """A message if the splits are inside the folder images; "" otherwise."""
    inside = sorted(path.name for path in (root / "images").glob("*") if path.is_dir())
    return f"{root} has images/{inside[0]} where {inside[0]}/images is expected" if inside else ""


def _classes(classes: int | str | Sequence[str] | None, root: Path) -> tuple[str, ...]:
    if classes is None and (root / "classes.txt").is_file():
        return tuple(read_list(root / "classes.txt"))
    if isinstance(classes, str):
        classes = int(classes) if classes.isdigit() else [name.strip() for name in classes.split(",")]
    if isinstance(classes, int) and not 1 <= classes <= 65535:
        raise InputError(f"image-folder: the number of classes is 1 to 65535; got {classes}")
    if not classes:
        raise InputError("image-folder needs classes=NUMBER, classes=[names] or a file classes.txt in the root")
    return tuple(f"class {index}" for index in range(classes)) if isinstance(classes, int) else tuple(classes)
