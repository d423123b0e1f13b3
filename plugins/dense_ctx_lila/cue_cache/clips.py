"""Discover clips, fingerprint them, and downscale frames."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.data.base import by_number
from dense_ctx.data.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Video
from dense_ctx.errors import FileError, InputError
from dense_ctx.interfaces import Size

_HASHED = 1 << 20  # bytes of a file that are hashed


@dataclass(frozen=True)
class ClipFile:
    """A clip: `name`, its path below the folder that was named, without suffix; `path`, a file or folder of frames."""

    name: str
    path: Path


def find_clips(videos: Sequence[str | os.PathLike[str]]) -> list[ClipFile]:
    """Clips under the named paths, sorted by name: video files, folders of frames, folders that hold either.

    A folder with images and no video is a clip. Hidden files and folders are left out.

    Raises:
        FileError: a path is missing or no video, or no clip exists.
        InputError: two clips of one name.
    """
    clips: dict[str, ClipFile] = {}
    for root in map(Path, videos):
        if not root.exists():
            raise FileError(f"No video or folder at {root}")
        if root.is_file() and root.suffix.lower() not in VIDEO_SUFFIXES:
            raise FileError(f"{root} is no video ({', '.join(sorted(VIDEO_SUFFIXES))}) and no folder")
        for path in below(root):
            relative = path.relative_to(root)
            name = (relative if relative.parts else Path(root.resolve().name)).as_posix()
            name = name if path.is_dir() else name[: len(name) - len(path.suffix)]
            other = clips.setdefault(name, ClipFile(name, path))
            if other.path.resolve() != path.resolve():
                raise InputError(
                    f"{other.path} and {path} are both called {name!r}: name a folder above both, or cache them apart"
                )
    if not clips:
        raise FileError(f"No video and no folder of frames under {', '.join(map(str, videos))}")
    return [clips[name] for name in sorted(clips)]


def below(path: Path) -> Iterator[Path]:
    """The clips under a path, itself among them: a folder with images and no video is one."""
    if path.is_file():
        yield path
        return
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    films = [entry for entry in entries if entry.suffix.lower() in VIDEO_SUFFIXES and entry.is_file()]
    if not films and any(entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file() for entry in entries):
        yield path
        return
    yield from films
    for folder in entries:
        if folder.is_dir():
            yield from below(folder)


def stamp(path: Path) -> dict[str, str]:
    """A fingerprint of a video: its size and the sha256 of its first MiB; of a folder, of its images.

    Times are left out, so that a copy on another machine is the same video.

    Raises:
        FileError: it cannot be read.
    """
    try:
        if path.is_file():
            return {"bytes": str(path.stat().st_size), "sha256": _digest(path)}
        images = sorted((entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES), key=by_number)
        total = sum(image.stat().st_size for image in images)
        ends = "".join(_digest(image) for image in (images[:1] + images[-1:]))
        names = ",".join(image.name for image in images)
        digest = hashlib.sha256(f"{names}|{ends}".encode()).hexdigest()
        return {"images": str(len(images)), "bytes": str(total), "sha256": digest}
    except OSError as error:
        raise FileError(f"Cannot read {path}: {error}") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(_HASHED)).hexdigest()


def short_side(frames: Tensor, side: int | None) -> Tensor:
    """[B, 3, H, W] with a short side of at most `side` pixels, aspect kept, antialiased; None leaves them."""
    size = short_size((frames.shape[-2], frames.shape[-1]), side)
    if size == tuple(frames.shape[-2:]):
        return frames
    return functional.interpolate(frames, size=size, mode="bilinear", align_corners=False, antialias=True)


def short_size(size: Size, side: int | None) -> Size:
    """The size (H, W) that `short_side` gives."""
    if side is None or min(size) <= side:
        return size
    scale = side / min(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def read_frames(path: Path, side: int | None) -> Iterator[Tensor]:
    """Frames [3, H, W] float32 in [0, 1], in order, made smaller.

    Raises:
        FileError: not a video, a damaged frame, or frames of different sizes.
    """
    size: tuple[int, ...] | None = None
    for index, frame in enumerate(Video(path)):
        size = size or frame.shape
        if frame.shape != size:
            raise FileError(
                f"{path}: frame {index} is {list(frame.shape[:2])}, the first {list(size[:2])}; frames have one size"
            )
        tensor = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float() / 255
        yield short_side(tensor, side)[0]
