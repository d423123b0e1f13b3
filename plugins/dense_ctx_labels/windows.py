"""Read and label rasters larger than memory, window by window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dense_ctx.errors import InputError
from dense_ctx.gateway import gateway
from dense_ctx.interfaces import Size

from .annotation import LabelArray, Picture
from .base import LabelFormat
from .classes import Classes, Colour


@dataclass(frozen=True)
class Window:
    """A part of a raster: its first row and column, and its size."""

    top: int
    left: int
    height: int
    width: int

    def grown(self, margin: int, size: Size) -> Window:
        """The window extended by `margin` pixels on each side, clipped to the raster's size (H, W)."""
        top, left = max(self.top - margin, 0), max(self.left - margin, 0)
        bottom, right = min(self.top + self.height + margin, size[0]), min(self.left + self.width + margin, size[1])
        return Window(top, left, bottom - top, right - left)

    def inside(self, outer: Window) -> tuple[slice, slice]:
        """Its rows and columns relative to a larger window."""
        top, left = self.top - outer.top, self.left - outer.left
        return slice(top, top + self.height), slice(left, left + self.width)


class Raster(Protocol):
    """An image that is read by windows."""

    @property
    def size(self) -> Size:
        """(H, W)."""
        ...

    def read(self, window: Window) -> Picture:
        """A window's pixels, uint8 [h, w, 3]."""
        ...


class LabelSink(Protocol):
    """Labels that are written by windows."""

    def write(self, window: Window, labels: LabelArray) -> None:
        """Write labels [h, w] of the classes' dtype."""


class WindowedFormat(LabelFormat, ABC):
    """A format whose images and labels can also be read and written by windows.

    `raster` and `sink` are context managers; the file of a sink gets its name when the block ends without an error.
    """

    @abstractmethod
    def raster(self, path: Path) -> AbstractContextManager[Raster]:
        """Open an image."""

    @abstractmethod
    def sink(self, path: Path, image: Path | None, size: Size, classes: Classes) -> AbstractContextManager[LabelSink]:
        """Open a label file for writing. image: the image it belongs to, in this format, if any."""

    @gateway
    def label(
        self,
        image: Path,
        labels: Path,
        classes: Classes,
        predict: Callable[[Picture], Any],
        *,
        window: int = 1024,
        margin: int = 128,
        progress: Callable[[Sequence[Window]], Iterator[Window]] = iter,
    ) -> Path:
        """Label a raster of any size, with one window in memory at a time.

        Args:
            image: the raster. labels: the file to write.
            predict: returns labels [h, w], ids of `classes`, for pixels uint8 [h, w, 3].
            window: side of a window in pixels, without the margin.
            margin: pixels around a window that are predicted with it, as context, and discarded.
            progress: wraps the sequence of windows, as tqdm does.

        Returns:
            `labels`.

        Raises:
            InputError: an invalid window or margin; predicted labels of another size, or ids of no class.
            FileError: a file cannot be read or written; then no label file is left.
        """
        if window < 1 or margin < 0:
            raise InputError(f"A window has at least 1 pixel, and a margin 0; got {window} and {margin}")
        with self.raster(image) as raster, self.sink(labels, image, raster.size, classes) as sink:
            for part in progress(windows(raster.size, window)):
                outer = part.grown(margin, raster.size)
                values = np.asarray(predict(raster.read(outer)))
                if values.shape != (outer.height, outer.width):
                    raise InputError(f"predict gave {list(values.shape)} for {[outer.height, outer.width]} pixels")
                sink.write(part, checked(values[part.inside(outer)], classes))
        return labels

    @gateway
    def write_windows(
        self,
        image: Path,
        labels: Path,
        names: Sequence[str],
        colours: Sequence[Colour],
        predict: Callable[[Picture], Any],
        **options: Any,
    ) -> Path:
        """`label`, without a `Classes` object. names, colours: of the classes. options, errors: as `label`."""
        return self.label(image, labels, Classes(tuple(names), tuple(colours)), predict, **options)


def windows(size: Size, side: int) -> list[Window]:
    """Windows of at most `side` x `side` pixels that tile a raster, row by row."""
    return [
        Window(top, left, min(side, size[0] - top), min(side, size[1] - left))
        for top in range(0, size[0], side)
        for left in range(0, size[1], side)
    ]


def checked(values: LabelArray, classes: Classes) -> LabelArray:
    """Validate labels and convert them to the classes' dtype.

    Raises:
        InputError: not integers, or an id of no class.
    """
    if values.dtype.kind not in "iu":
        raise InputError(f"Labels are integers; got {values.dtype}")
    beyond = values[((values < 0) | (values >= len(classes))) & (values != classes.ignore)]
    if beyond.size:
        raise InputError(f"{beyond.size} pixels hold {beyond.flat[0]}; expected ids of {len(classes)} classes")
    return values.astype(classes.dtype, copy=False)


def to_picture(values: np.ndarray[Any, np.dtype[Any]], span: tuple[float, float] | None, name: str) -> Picture:
    """Convert bands [h, w, B] to uint8 [h, w, 3]: one band is repeated, three are red, green and blue.

    Args:
        span: the values of black and white; others are clipped. Required unless the dtype is uint8.

    Raises:
        InputError: a dtype other than uint8 without `span`; not one or three bands.
    """
    if values.shape[2] not in (1, 3):
        raise InputError(f"{name} has {values.shape[2]} bands; name those of red, green and blue: bands=[4, 3, 2]")
    if span is not None:
        low, high = span
        shares = (np.nan_to_num(values.astype(np.float64), nan=low) - low) / (high - low)
        values = (shares.clip(0, 1) * 255).round().astype(np.uint8)
    if values.dtype != np.uint8:
        raise InputError(f"{name} holds {values.dtype}: give the values of black and white, such as span=[0, 10000]")
    return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values


def check_span(span: Sequence[float] | None) -> tuple[float, float] | None:
    """Validate a span: two finite values, the first below the second."""
    if span is None:
        return None
    if len(span) != 2 or not all(np.isfinite(value) for value in span) or not span[0] < span[1]:
        raise InputError(f"span is two values, the first (black) below the second (white); got {list(span)}")
    return float(span[0]), float(span[1])
