"""Frames of a video file by number, exact with a variable frame rate too."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from dense_ctx.data.video import Frame, Video, upright
from dense_ctx.errors import FileError

_AHEAD = 32  # frames: nearer ones are decoded on the way, farther ones sought


class Clip:
    """Any frame of a video file, uint8 [H, W, 3]; the next one costs one decoding step, another one a seek.

    The time stamps of all packets are read once. A file without them is decoded once to count its frames, and from its
    beginning to go back.

    Raises:
        FileError: missing, not a video, without a frame; while reading, damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        self._video = Video(path)
        self.stamps = _stamps(path)
        self.count = len(self.stamps) if self.stamps else sum(1 for _ in self._video)
        self._container: Any = None
        self._frames: Iterator[tuple[int | None, Any]] = iter(())
        self._next = -1  # the number of the frame that `_frames` gives next; -1: none
        first = self.read(0)
        self.size = first.shape[0], first.shape[1]

    def read(self, index: int) -> Frame:
        """The frame of a number, from 0 on."""
        with self._lock:
            try:
                return self._read(index)
            except (av.FFmpegError, OSError) as error:
                self.close()
                raise FileError(f"{self.path}: frame {index} cannot be decoded: {error}") from error

    def close(self) -> None:
        """Close the file; reading opens it again."""
        if self._container is not None:
            self._container.close()
        self._container, self._next = None, -1

    def _read(self, index: int) -> Frame:
        near = 0 <= self._next <= index < self._next + _AHEAD
        # a seek may end behind the frame: then from the beginning
        for start in (None, index, 0) if near else (index, 0):
            if start is not None:
                self._seek(start)
            if (frame := self._until(index)) is not None:
                self._next = index + 1
                return upright(frame)
        self.close()
        raise FileError(
            f"{self.path}: frame {index} of {self.count} cannot be decoded; convert the file, or give its frames"
        )

    def _until(self, index: int) -> Any:
        """The frame, with those before it decoded and dropped; None: it does not come."""
        for place, (stamp, frame) in enumerate(self._frames, self._next):
            if stamp == self.stamps[index] if self.stamps else place == index:
                return frame
            if self.stamps and stamp is not None and stamp > self.stamps[index]:
                break
        return None

    def _seek(self, index: int) -> None:
        """Open the file and go to the key frame before a frame; without time stamps to the beginning."""
        self.close()
        self._container = av.open(str(self.path))
        stream = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        if self.stamps and index:
            self._container.seek(self.stamps[index], stream=stream)
        self._next = 0
        self._frames = ((frame.pts, frame) for frame in self._container.decode(stream))


def _stamps(path: Path) -> list[int]:
    """Time stamps of the frames in order of their presentation; empty where the file has none."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard]
    stamps = [stamp for stamp in packets if stamp is not None]
    return sorted(stamps) if len(stamps) == len(packets) == len(set(stamps)) else []
