"""Masks carried from frame to frame by an exported tracker: `dense_ctx_predict.track` without torch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from dense_ctx.errors import InputError, NonFiniteError, about
from dense_ctx.persistence.pixels import read_mask, read_pixels

from .geometry import Array, Size, nearest, resized
from .onnx_model import OnnxModel
from .windows import grid_of


class OnnxTracker:
    """Run what `dense-ctx export --task track` wrote; several clips may be tracked by turns.

    Args:
        path, threads, providers: as of `OnnxModel`.

    Raises:
        InputError: a file that does not track. FileError, CheckpointError, MissingDependencyError: as of `OnnxModel`.
    """

    def __init__(
        self, path: str | os.PathLike[str], threads: int | None = None, providers: Sequence[str] | None = None
    ) -> None:
        self.model = OnnxModel(path, threads, providers)
        self.facts = self.model.facts
        if self.facts.track is None:
            raise InputError(
                f"{path} holds a model for {self.facts.task}, and does not track: open it with OnnxModel, or write one "
                "that does by `dense-ctx export MODEL --task track`"
            )

    def start(self, image: Any, mask: Any) -> OnnxTrack:
        """Begin with a frame and its mask, object ids [H, W].

        Args:
            image, mask: a path, a PIL image or an array; what is accepted is as of `dense_ctx.images`.

        Raises:
            FileError: a path that cannot be read.
            InputError: no image or mask; sizes that differ, or that the file does not take; a single label.
            NonFiniteError: features that are NaN or infinite.
        """
        return OnnxTrack(self.model, image, mask)

    def track(self, video: Iterable[Any], first_mask: Any) -> Iterator[Array]:
        """The object ids of each frame, int64 [H, W]; first `first_mask` itself. One frame is read at a time.

        Args:
            video: frames of one size. first_mask: object ids of the first frame; any ids, 0 usually the background.

        Raises:
            Those of `start`, and of `OnnxTrack.step` with the frame's number. InputError: no frames.
        """
        going: OnnxTrack | None = None
        for number, image in enumerate(video):
            with about(f"Frame {number}"):
                if going is not None:
                    going.step(image)
                else:
                    going = self.start(image, first_mask)
            yield going.mask
        if going is None:
            raise InputError("The video has no frames")


class OnnxTrack:
    """A mask on its way through a clip: each `step` is the next frame.

    Attributes:
        mask: of the last frame, int64 [H, W]. labels: its soft labels on the grid, float32 [h, w, K], in the order of
            the ids, rising.
        certainty: of the object that is least sure in the last frame: the mean cosine between its cells and those that
            voted for them; 0 where one is not seen, 1 at first. The lowest id of the mask is no object.
    """

    def __init__(self, model: OnnxModel, image: Any, mask: Any) -> None:
        pixels = read_pixels(image)[None]
        self.size: Size = (pixels.shape[-2], pixels.shape[-1])
        self.mask = read_mask(mask, self.size)
        self._ids, indices = np.unique(self.mask, return_inverse=True)
        if len(self._ids) < 2:
            raise InputError(
                f"The first mask holds only label {self._ids[0]}: nothing to track. Expected objects and background"
            )
        settings = model.facts.track or {}
        self._model, self._cell, self._last = model, settings["stride"], settings["n_last_frames"]
        grid = grid_of(self.size, self._cell)
        cells = nearest(indices.reshape(self.size), grid)
        if lost := [int(label) for index, label in enumerate(self._ids) if index and not (cells == index).any()]:
            text = (
                f"object(s) {', '.join(map(str, lost[:5]))}{' ...' if lost[5:] else ''} of the first mask cover the "
                f"centre of no cell of {self._cell} pixels and cannot be followed: export with a smaller stride"
            )
            if len(lost) == len(self._ids) - 1:
                raise InputError(text)
            warnings.warn(text, stacklevel=3)
        self.labels: Array = np.eye(len(self._ids), dtype=np.float32)[cells]
        self.certainty, self._steps = 1.0, 0
        inputs = model.inputs(pixels)
        # the tables of the grid serve all frames; the first slot of the context stays
        self._tables = {name: value for name, value in inputs.items() if name != "image"}
        self._keys = np.zeros((1 + self._last, *grid, model.facts.dim), dtype=np.float32)
        self._labels = np.zeros((1 + self._last, *self.labels.shape), dtype=np.float32)
        self._labels[0] = self.labels
        context = {"context_keys": self._keys[:1], "context_labels": self._labels[:1]}
        self._keys[0] = _finite(model.run(inputs | context, only=["keys"]))["keys"]

    def step(self, image: Any) -> Array:
        """The object ids of the next frame, int64 [H, W].

        Raises:
            FileError, InputError: an image that cannot be read or is not one; another size than the first frame's.
            NonFiniteError: features or votes that are NaN or infinite.
        """
        pixels = read_pixels(image)[None]
        size = (pixels.shape[-2], pixels.shape[-1])
        if size != self.size:
            raise InputError(
                f"it is {size[0]} x {size[1]} (H x W); the first was {self.size[0]} x {self.size[1]}. One clip, one "
                "size"
            )
        image_input = {"image": self._model.inputs(pixels)["image"]}
        frames = 1 + min(self._steps, self._last)
        context = {"context_keys": self._keys[:frames], "context_labels": self._labels[:frames]}
        outputs = _finite(self._model.run(image_input | self._tables | context, only=["keys", "labels", "cosines"]))
        self.labels = outputs["labels"]
        self.certainty = _certainty(self.labels, outputs["cosines"])
        if self._last:  # replaces the oldest of the last frames
            slot = 1 + self._steps % self._last
            self._keys[slot], self._labels[slot] = outputs["keys"], self.labels
        self._steps += 1
        self.mask = self._ids[_votes(np.moveaxis(self.labels, -1, 0), self.size, self._cell).argmax(0)]
        return self.mask


def _finite(outputs: dict[str, Array]) -> dict[str, Array]:
    names = [name for name in ("keys", "labels") if name in outputs and not np.isfinite(outputs[name]).all()]
    if names:
        raise NonFiniteError(f"The result of the exported model: NaN or infinity in {', '.join(names)}")
    return outputs


def _votes(soft: Array, size: Size, stride: int) -> Array:
    """Soft labels [K, h, w] -> votes [K, *size], as DINO's evaluation makes them; the largest wins.

    Bilinear upsampling by `stride`, each channel min-max normalised over the frame, then nearest neighbour.
    """
    large = resized(soft, (soft.shape[-2] * stride, soft.shape[-1] * stride)) if stride > 1 else soft
    low, high = large.min((1, 2), keepdims=True), large.max((1, 2), keepdims=True)
    return nearest(np.where(high > 0, (large - low) / np.maximum(high - low, 1e-12), large), size)


def _certainty(labels: Array, cosines: Array) -> float:
    """The least mean cosine [h, w] over the cells that a class of labels [h, w, K] wins; 0 where it wins none."""
    winner = labels.argmax(2).ravel()
    sums = np.bincount(winner, cosines.clip(0).ravel(), labels.shape[2])
    return float((sums / np.bincount(winner, minlength=labels.shape[2]).clip(1))[1:].min())
