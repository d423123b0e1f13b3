"""What a session annotates: images in memory, image files, the frames of a clip; each with a digest of its content."""

from __future__ import annotations

import hashlib
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dense_ctx_predict.queries import expand
from torch import Tensor

from dense_ctx.data.base import by_number
from dense_ctx.data.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from dense_ctx.errors import DenseCtxError, FileError, InputError
from dense_ctx.files import file_digest, regular_size
from dense_ctx.images import image_size, load
from dense_ctx.visualize import Picture

from .clip import Clip


@dataclass(frozen=True)
class Item:
    """An image or a frame. name: relative, with suffix ("day1/0003.jpg"; of a video's frame "clip/00003.png")."""

    name: str
    width: int
    height: int


class Source(ABC):
    """The items of a session and their pixels.

    Attributes: items; is_clip: frames in order, of one size; paths: of the files, for opening it again; root: the
    folder that the names are relative to.
    """

    items: tuple[Item, ...]
    is_clip = False
    paths: tuple[Path, ...] = ()
    root: Path | None = None

    @abstractmethod
    def pixels(self, index: int) -> Tensor:
        """float [3, H, W] in [0, 1]. Raises FileError: it cannot be read, or has changed."""

    @abstractmethod
    def digest(self, index: int) -> str:
        """sha256 that stands for the item's content. Raises FileError: the file has changed since it was opened."""

    def close(self) -> None:  # noqa: B027 - most have none
        """Close files."""


class Pictures(Source):
    """Images in memory, kept as 8 bits; frames=True: those of one clip."""

    def __init__(self, images: Sequence[Any], frames: bool = False) -> None:
        self._pictures: list[Picture] = [_eight_bits(load(image)) for image in images]
        sizes = [picture.shape for picture in self._pictures]
        name = "frame" if frames else "image"
        self.items = tuple(Item(f"{name}-{i:05d}.png", w, h) for i, (h, w, _) in enumerate(sizes))
        self.is_clip = frames
        if frames:
            _require_one_size(self.items)

    def pixels(self, index: int) -> Tensor:
        """float [3, H, W] in [0, 1]."""
        return load(self._pictures[index])

    def digest(self, index: int) -> str:
        """sha256 of shape and pixels."""
        picture = self._pictures[index]
        return hashlib.sha256(f"{picture.shape}".encode() + picture.tobytes()).hexdigest()


class Files(Source):
    """Image files, watched for changes; frames=True: those of one clip."""

    def __init__(self, paths: Sequence[Path], names: Sequence[str], root: Path | None, frames: bool = False) -> None:
        self.paths, self.root, self.is_clip = tuple(paths), root, frames
        self.items = tuple(_item(path, name) for path, name in zip(paths, names, strict=True))
        self._watch = [_Watch(path) for path in paths]
        if frames:
            _require_one_size(self.items)

    def pixels(self, index: int) -> Tensor:
        """float [3, H, W] in [0, 1]."""
        self._watch[index].digest()
        image = load(self.paths[index])
        item = self.items[index]
        if tuple(image.shape[1:]) != (item.height, item.width):
            raise FileError(f"{self.paths[index]} has changed its size; open the session again")
        return image

    def digest(self, index: int) -> str:
        """sha256 of the file."""
        return self._watch[index].digest()


class VideoFile(Source):
    """The frames of a video file."""

    is_clip = True

    def __init__(self, path: Path) -> None:
        self.paths, self.root, self._watch = (path,), path.parent, _Watch(path)
        self._clip = Clip(path)
        height, width = self._clip.size
        self.items = tuple(Item(f"{path.stem}/{i:05d}.png", width, height) for i in range(self._clip.count))

    def pixels(self, index: int) -> Tensor:
        """float [3, H, W] in [0, 1]."""
        self._watch.check()
        return load(self._clip.read(index))

    def digest(self, index: int) -> str:
        """sha256 of the file, and the frame's number."""
        return hashlib.sha256(f"{self._watch.digest()} {index}".encode()).hexdigest()

    def close(self) -> None:
        """Close the file."""
        self._clip.close()


class _Watch:
    """A file, its size, time of change and digest."""

    def __init__(self, path: Path) -> None:
        self.path, self._known = path, ""
        self._stamp = self._now()

    def _now(self) -> tuple[int, int]:
        regular_size(self.path)
        status = self.path.stat()
        return status.st_size, status.st_mtime_ns

    def check(self) -> None:
        """Refuse a file that has other content than before."""
        if (now := self._now()) == self._stamp:
            return
        if not self._known or file_digest(self.path) != self._known:
            raise FileError(
                f"{self.path} has changed on disk since the session was opened: put the old file back, or open a new "
                "session"
            )
        self._stamp = now  # touched, or written again with the same content

    def digest(self) -> str:
        """sha256 of the file."""
        self.check()
        if not self._known:
            self._known = file_digest(self.path)
            self.check()
        return self._known


def open_source(source: Any, frames: bool, skip: Collection[str | os.PathLike[str]] = ()) -> Source:
    """The source that a user names: an image, a list of images, a folder, a video file, or the frames of a clip.

    skip: files and folders in a folder of images that are left out.

    Raises:
        FileError: nothing there, an empty folder, a file that cannot be read (in a folder of images it is left out,
            which a warning says). InputError: of another kind; `frames` of what is no folder.
    """
    if isinstance(source, Source):
        if frames:
            raise InputError("A Source says itself whether it is a clip (is_clip): leave frames=True out")
        return source
    if isinstance(source, (list, tuple)):
        return _list(source, frames)
    path = Path(source) if isinstance(source, (str, os.PathLike)) else None
    if frames and (path is None or not path.is_dir()):
        raise InputError(f"frames=True is of a folder or a list of frames; got {str(source)[:200]}")
    if path is None:
        return Pictures([source])
    if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir():
        if not path.exists():
            raise FileError(f"No video at {path}")
        return VideoFile(path)
    if not path.is_dir():
        return Files([path], [path.name], path.parent)
    if frames:
        images = [p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
        if not images:
            raise FileError(f"The folder {path} holds no frames ({', '.join(sorted(IMAGE_SUFFIXES))})")
        images.sort(key=by_number)
        return Files(images, [image.name for image in images], path, frames=True)
    return _folder(path, [Path(item) for item in skip])


def _list(source: Sequence[Any], frames: bool) -> Source:
    if not source:
        raise InputError("The list of images is empty: give at least one")
    if not all(isinstance(item, (str, os.PathLike)) for item in source):
        if any(isinstance(item, (str, os.PathLike)) for item in source):
            raise InputError("The list has both files and images in memory: give one kind")
        return Pictures(source, frames)
    paths = [Path(item) for item in source]
    places: dict[Path, Path] = {}
    for path in paths:
        if (other := places.setdefault(path.resolve(), path)) is not path:
            raise InputError(f"The list has {path} twice" + (f", as {other} too" if other != path else ""))
    root = Path(os.path.commonpath([place.parent for place in places]))
    return Files(paths, [path.resolve().relative_to(root).as_posix() for path in paths], root, frames)


def _folder(folder: Path, skip: Collection[Path]) -> Source:
    queries = expand([folder], skip=skip)
    if clips := [query for query in queries if query.clip]:
        warnings.warn(
            f"{folder} holds {len(clips)} video(s), {clips[0].path.name} among them: a clip has a session of its own, "
            "and they are left out",
            stacklevel=4,
        )
    paths, bad = [], []
    for query in queries:
        if not query.clip:
            try:
                image_size(query.path)
                paths.append(query.path)
            except DenseCtxError as error:
                bad.append(str(error))
    if bad:
        warnings.warn(f"{len(bad)} image(s) are left out: {'; '.join(bad[:3])}", stacklevel=4)
    if not paths:
        raise FileError(f"The folder {folder} holds no image that can be read")
    return Files(paths, [path.relative_to(folder).as_posix() for path in paths], folder)


def _require_one_size(items: Sequence[Item]) -> None:
    first = items[0]
    for item in items:
        if (item.width, item.height) != (first.width, first.height):
            raise InputError(
                f"{item.name} is {item.height} x {item.width} (H x W), {first.name} is {first.height} x {first.width}: "
                "frames of one clip have one size; open them as images"
            )


def _item(path: Path, name: str) -> Item:
    height, width = image_size(path)
    return Item(name, width, height)


def _eight_bits(image: Tensor) -> Picture:
    return np.ascontiguousarray((image * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


def picture_of(source: Source, index: int) -> Picture:
    """uint8 [H, W, 3] of an item, for display."""
    return _eight_bits(source.pixels(index))
