"""How files name images: references that stay below a folder, and the images they stand for."""

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
    """A reference to an image: relative, with "/" between, and no way up. shown: as the file has it, for the error.

    Raises:
        InputError: anything else.
    """
    if not isinstance(text, str) or not text or len(text) > 1000 or not text.isprintable():
        raise InputError(f"An image's name is printable text of 1 to 1000 letters; got {str(text)[:80]!r}")
    clean = posixpath.normpath(text.replace("\\", "/"))
    if clean.startswith(("/", "..")) or _DRIVE.match(clean) or clean == ".":
        name = (shown or text)[:200]
        raise InputError(f"The image {name!r} lies outside of the labels' folder; say where: images=FOLDER")
    return clean


def reference(text: object, folder: Path, top: Path, images: ImageFiles | None) -> str:
    """The reference of an image that a file in `folder` names, for labels of the folder `top`.

    A name that leads out (`../images/a.jpg`, as tools write where labels have a folder of their own; an absolute one)
    is followed from the file, and taken if it ends below the folder of the images.

    Raises:
        InputError: it does not, or that folder is not known.
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
            raise FileError(f"{root} is not a folder; expected that of the images")
        self.root = root

    def path(self, image: str) -> Path:
        """The file of a reference."""
        return self.root / checked_reference(image)

    def size(self, image: str) -> Size:
        """(H, W), upright. Raises FileError: there is no such image, or it cannot be read."""
        width, height = open_image(self.path(image)).size
        return height, width

    def opener(self, image: str) -> Callable[[], np.ndarray[Any, np.dtype[np.uint8]]]:
        """A call that gives the image, uint8 [H, W, 3]."""
        return partial(_picture, self.path(image))

    def with_stem(self, stem: str) -> str:
        """The reference of the only image with this name but for its suffix.

        Raises:
            FileError: there is none. InputError: there are several.
        """
        names = self._stems.get(posixpath.normpath(stem), [])
        if len(names) > 1:
            raise InputError(f"{self.root} has {' and '.join(names[:3])}; it is not clear to which the labels belong")
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
