"""Formats `overlay-mp4` and `overlay-gif`: clips of images with their labels; write-only."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dense_ctx.data.video import write_video
from dense_ctx.errors import InputError
from dense_ctx.files import new_file
from dense_ctx.visualize import overlay

from .annotation import Annotation, Picture
from .base import LabelFormat
from .classes import Classes


class Overlay(LabelFormat):
    """One frame per annotation; background and pixels that are not annotated show the image alone.

    Args:
        fps: frames per second. alpha: opacity of the labels, above 0 and at most 1.
    """

    scope = "data set"
    reads = False

    def __init__(self, fps: float = 10.0, alpha: float = 0.55) -> None:
        if not 0 < fps <= 100 or not 0 < alpha <= 1:
            raise InputError(f"fps is above 0 and at most 100, alpha above 0 and at most 1; got {fps} and {alpha}")
        self.fps, self.alpha = fps, alpha

    def save(self, path: Path, classes: Classes, annotations: Iterator[Annotation]) -> None:
        """Write one clip of all images, which must have the same size."""
        self.store(path, (self.frame(annotation) for annotation in annotations))

    def frame(self, annotation: Annotation) -> Picture:
        """The image [H, W, 3] with its labels.

        Raises:
            InputError: the annotation comes without its image, or with one of another size.
        """
        if annotation.picture is None:
            raise InputError(f"An overlay needs the image {annotation.image}: give its folder, images=FOLDER")
        classes = annotation.classes
        values = np.zeros(65536, dtype=np.int64)  # 0 shows the image, the classes follow
        values[: len(classes)] = np.arange(1, len(classes) + 1)
        if classes.background is not None:
            values[classes.background] = 0
        colours = np.array([(0, 0, 0), *classes.colours], dtype=np.uint8)
        labels = torch.from_numpy(values[annotation.labels])
        return overlay(annotation.picture(), labels, colours, self.alpha)

    @abstractmethod
    def store(self, path: Path, frames: Iterator[Picture]) -> None:
        """Write the frames."""


class Mp4(Overlay):
    """`overlay-mp4`."""

    title = "labels over their images, H.264"
    suffix = ".mp4"

    def store(self, path: Path, frames: Iterator[Picture]) -> None:
        """Encode the frames; one is in memory at a time."""
        write_video(path, frames, self.fps)


class Gif(Overlay):
    """`overlay-gif`: 256 colours per frame; frame times are multiples of 1/100 s."""

    title = "labels over their images, GIF"
    suffix = ".gif"

    def store(self, path: Path, frames: Iterator[Picture]) -> None:
        """Encode the frames; Pillow holds their differences in memory."""
        first = next(frames)

        def images() -> Iterator[Image.Image]:
            for frame in frames:
                if frame.shape != first.shape:
                    raise InputError(
                        f"Frames of one clip have one size; got {list(first.shape)}, then {list(frame.shape)}"
                    )
                yield Image.fromarray(frame)

        milliseconds = max(1, round(100 / self.fps)) * 10
        with new_file(path, f"the clip {path}", faults=(ValueError,), sync=False) as partial:
            Image.fromarray(first).save(
                partial, format="GIF", save_all=True, append_images=images(), duration=milliseconds, loop=0
            )
