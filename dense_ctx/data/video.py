"""Video files and folders of frames: read one frame at a time, write H.264."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from ..errors import FileError, InputError
from ..files import new_file
from ..gateway import gateway
from ..images import open_image
from ..interfaces import Size
from .base import by_number

Frame = np.ndarray[Any, np.dtype[np.uint8]]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".gif", ".y4m"})


class Video:
    """A clip: a video file, or a folder of images in the order of their names (2 before 10), without hidden ones.

    Iterating decodes one frame at a time, uint8 [H, W, 3], upright, from the first one on. `len` is what the container
    states: it may be off by some frames, or 0 where it states nothing.

    Raises:
        FileError: missing, not a video, no video stream, a folder without images; while iterating, a damaged frame.
    """

    @gateway
    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.fps = 25.0
        self._images: list[Path] = []
        if not self.path.exists():
            raise FileError(f"No video at {self.path}")
        if self.path.is_dir():
            inside = self.path.iterdir()
            images = (p for p in inside if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != ".")
            self._images = sorted(images, key=by_number)
            if not self._images:
                raise FileError(f"The folder {self.path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
            self._length = len(self._images)
        else:
            with self._open() as container:
                stream = container.streams.video[0]
                self.fps = float(stream.average_rate or stream.guessed_rate or 25)
                seconds = (container.duration or 0) / av.time_base
                self._length = int(stream.frames or round(seconds * self.fps))
                gif = self.path.suffix.lower() == ".gif"
                if gif and sum(packet.size > 0 for packet in container.demux(stream)) < stream.frames:
                    raise FileError(f"{self.path}: FFmpeg joins frames without a duration: save it with durations")

    def __len__(self) -> int:
        return self._length

    @gateway
    def __iter__(self) -> Iterator[Frame]:
        return map(_picture, self._images) if self._images else self._decoded()

    def first(self) -> Frame:
        """The first frame."""
        return next(iter(self))

    def frames(self, start: int, count: int) -> list[Frame]:
        """`count` frames from `start` on (fewer at the end), by seeking: the cost does not grow with `start`.

        A file is sought by time stamp and frame rate: with a variable rate the first frame may be off by a few; the
        frames are always consecutive. Raises FileError: damaged, or nothing can be decoded there.
        """
        if self._images:
            return [_picture(path) for path in self._images[start : start + count]]
        return list(itertools.islice(self._decoded(start), count))

    @property
    def size(self) -> Size:
        """(H, W) of the first frame."""
        height, width = self.first().shape[:2]
        return height, width

    def _open(self) -> Any:
        try:
            container = av.open(str(self.path))
        except (av.FFmpegError, OSError, ValueError) as error:
            size = self.path.stat().st_size
            raise FileError(f"{self.path} is not a video FFmpeg can read ({size} bytes): {error}") from error
        if not container.streams.video:
            container.close()
            raise FileError(f"{self.path} has no video stream")
        return container

    def _decoded(self, start: int = 0) -> Iterator[Frame]:
        index = start
        with self._open() as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            earliest = 0.0
            try:
                if start:
                    seconds = start / self.fps + float((stream.start_time or 0) * stream.time_base)
                    container.seek(int(seconds / stream.time_base), stream=stream)
                    earliest = seconds - 0.5 / self.fps
                for frame in container.decode(stream):
                    if not start or frame.time is None or frame.time >= earliest:
                        yield upright(frame)
                        index += 1
            except av.FFmpegError as error:
                raise FileError(f"{self.path}: frame {index} is damaged: {error}") from error
        if index == start:
            raise FileError(f"{self.path} holds no frame that can be decoded" + (f" at {start}" if start else ""))


def _picture(path: Path) -> Frame:
    return np.asarray(open_image(path).convert("RGB"))


def upright(frame: Any) -> Frame:
    """A decoded frame of PyAV's as uint8 [H, W, 3], turned as its file says."""
    picture: Frame = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(picture, int(getattr(frame, "rotation", 0) or 0) // 90))


@gateway
def write_video(path: str | os.PathLike[str], frames: Iterable[Frame], fps: float = 25.0) -> Path:
    """Write uint8 frames [H, W, 3] of one size as H.264 (MPEG-4 where FFmpeg has no x264).

    Odd sides are padded by one pixel, as the codec requires. The file appears under its name only when complete.

    Raises InputError: no frames, or of different sizes or dtypes; FileError: the file cannot be written.
    """
    path = Path(path)
    with (
        new_file(path, f"the video {path}", faults=(av.FFmpegError,), sync=False) as partial,
        av.open(str(partial), "w", format=None if path.suffix else "mp4") as container,
    ):
        stream: Any = None
        shape: tuple[int, ...] = ()
        for frame in frames:
            if not isinstance(frame, np.ndarray) or frame.shape[2:] != (3,) or frame.dtype != np.uint8:
                raise InputError(f"A frame is an array uint8 [H, W, 3]; got {type(frame)}, {np.shape(frame)}")
            if stream is None:
                shape = frame.shape
                stream = _stream(container, shape, fps)
            if frame.shape != shape:
                raise InputError(f"Frames of one video have one size; got {list(shape)}, then {list(frame.shape)}")
            even = np.pad(frame, ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        if stream is None:
            raise InputError(f"No frames to write to {path}")
        container.mux(stream.encode())
    return path


def _stream(container: Any, shape: tuple[int, ...], fps: float) -> Any:
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
    stream.height, stream.width = shape[0] + shape[0] % 2, shape[1] + shape[1] % 2
    stream.pix_fmt = "yuv420p"
    if codec == "libx264":
        stream.options = {"crf": "18"}
    else:
        stream.bit_rate = 8_000_000
    return stream
