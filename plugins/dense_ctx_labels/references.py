"""Resolve the image paths in label files; they must stay within a folder."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from dense_ctx.data.video import IMAGE_SUFFIXES
from dense_ctx.errors import FileError, InputError
from dense_ctx.images import open_image
from dense_ctx.interfaces import Size

_DRIVE = re.compile(r"[A-Za-z]:")


def checked_reference(text: object, shown: str | None = None) -> str:
    """Validate and normalise the path of an image: relative, "/" as the separator, within its folder.

    Args:
        shown: the path as it is in the file, for the error.

    Raises:
        InputError: anything else.
    """
    if not isinstance(text, str) or not text or len(text) > 1000 or not text.isprintable():
        raise InputError(f"An image's path is printable text of 1 to 1000 characters; got {str(text)[:80]!r}")
    clean = posixpath.normpath(text.replace("\\", "/"))
    if clean.startswith(("/", "..")) or _DRIVE.match(clean) or clean == ".":
        name = (shown or text)[:200]
        raise InputError(f"The image {name!r} is outside the labels' folder; give its folder, images=FOLDER")
    return clean


def reference(text: object, folder: Path, top: Path, images: ImageFiles | None) -> str:
    """Resolve the image path in a label file to a relative path.

    A path that leaves `top` (`../images/a.jpg`, or an absolute one) is resolved from the file, and accepted if it is
    within the folder of the images.

    Args:
        folder: of the label file. top: folder of all labels. images: folder of the images, if given.

    Raises:
        InputError: the path is outside the folder of the images, or leaves `top` and no such folder is given.
    """
    if not isinstance(text, str):
        return checked_reference(text)
    below = posixpath.join(folder.relative_to(top).as_posix(), text.replace("\\", "/"))
    try:
        return checked_reference(below, text)
    except InputError:
        if images is None or not text or not text.isprintable():
            raise
    root = images.root.resolve()
    target = Path(posixpath.normpath((folder.resolve() / text.replace("\\", "/")).as_posix()))
    if not target.is_relative_to(root):
        raise InputError(f"The image {text[:200]!r} is not below {images.root}, the folder of the images")
    return checked_reference(target.relative_to(root).as_posix())


class ImageFiles:
    """The images below a folder.

    Raises:
        FileError: it is no folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise FileError(f"{root} is not a folder; expected the folder of the images")
        self.root = root

    def path(self, image: str) -> Path:
        """The file of a relative path."""
        return self.root / checked_reference(image)

    def size(self, image: str) -> Size:
        """(H, W) of an image, after EXIF rotation.

        Raises:
            FileError: there is no such image, or it cannot be read.
        """
        width, height = open_image(self.path(image)).size
        return height, width

    def opener(self, image: str) -> Callable[[], np.ndarray[Any, np.dtype[np.uint8]]]:
        """A function that returns the image, uint8 [H, W, 3]."""
        return partial(_picture, self.path(image))

    def with_stem(self, stem: str) -> str:
        """Relative path of the only image whose path without suffix is `stem`.

        Raises:
            FileError: there is none. InputError: there are several.
        """
        names = self._stems.get(posixpath.normpath(stem), [])
        if len(names) > 1:
            raise InputError(f"{self.root} has {' and '.join(names[:3])}; the labels may belong to either")
        if not names:
            raise FileError(f"{self.root} has no image {stem} ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return names[0]

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        stems: dict[str, list[str]] = {}
        for path in sorted(self.root.rglob("*")):
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                relative = path.relative_to(self.root)
                stems.setdefault(relative.with_suffix("").as_posix(), []).append(relative.as_posix())
        return stems


def _picture(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(open_image(path).convert("RGB"))
