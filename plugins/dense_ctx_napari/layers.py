"""What a session reads of an image layer: one image, or a stack of frames, as napari shows them."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import numpy as np
from dense_ctx_session import Item, Source
from torch import Tensor

from dense_ctx.errors import InputError, about
from dense_ctx.images import load

LARGEST = 1 << 25  # pixels of an image: one beyond is for `dense-ctx predict --format tif`
_SHORTEST = 8  # pixels of a side

Array = np.ndarray[Any, np.dtype[Any]]


class LayerSource(Source):
    """The image of an image layer [Y, X], or its frames [T, Y, X], each with or without a last axis of colours.

    Colours are whole numbers or floats in [0, 1], RGBA is laid on white; grey values are scaled by the contrast limits
    that the layer has now. Frames are read when they are asked for.

    Args:
        layer: napari's image layer; of a multiscale one the finest level is read.

    Raises:
        InputError: other axes, a first axis that is named c or channel, complex numbers, an image with a side below 8
            pixels, or one beyond 33 megapixels.
    """

    def __init__(self, layer: Any) -> None:
        self.name, self._rgb = str(layer.name), bool(layer.rgb)
        self._data = layer.data[0] if layer.multiscale else layer.data
        self._limits = tuple(float(value) for value in layer.contrast_limits)
        shape = tuple(map(int, self._data.shape[:-1] if self._rgb else self._data.shape))
        if len(shape) not in (2, 3):
            raise InputError(
                f"The image layer {self.name!r} is {_listed(shape)}{' with colours' if self._rgb else ''}; expected "
                "one image (Y, X) or a stack of frames (T, Y, X): take a slice of it"
            )
        first = str(next(iter(layer.axis_labels), "")).lower()
        if len(shape) == 3 and first in ("c", "channel", "channels"):
            raise InputError(
                f"The image layer {self.name!r} has channels in its first axis ({first}), which are no frames: show it "
                "in colours (RGB), or split the stack and take one channel"
            )
        if np.dtype(self._data.dtype).kind not in "buif":
            raise InputError(
                f"The image layer {self.name!r} holds {self._data.dtype}; expected whole numbers or floats"
            )
        height, width = shape[-2:]
        if min(height, width) < _SHORTEST:
            raise InputError(
                f"The image layer {self.name!r} is {_listed(shape)}; expected sides of {_SHORTEST} or more"
            )
        if height * width > LARGEST:
            raise InputError(
                f"The image layer {self.name!r} has {height * width / 1e6:.0f} megapixels; up to "
                f"{LARGEST // 10**6} are labelled here: crop it, or label rasters by `dense-ctx predict --format tif`"
            )
        if shape[0] == 0:
            raise InputError(f"The image layer {self.name!r} has no frame")
        self.shape, self.is_clip = shape, len(shape) == 3
        stem = (
            "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in self.name).strip(".")
            or "image"
        )
        names = [f"{stem}/{i:05d}.png" for i in range(shape[0])] if self.is_clip else [f"{stem}.png"]
        self.items = tuple(Item(name, width, height) for name in names)

    def pixels(self, index: int) -> Tensor:
        """float [3, H, W] in [0, 1]. Raises InputError: NaN, or colours outside of [0, 1]; it names the layer."""
        frame = self._frame(index)
        where = f"The image layer {self.name!r}" + (f", frame {index}" if self.is_clip else "")
        if frame.dtype.kind == "f" and not np.isfinite(frame).all():
            raise InputError(f"{where} holds NaN or infinity; expected numbers: fill them first (numpy.nan_to_num)")
        with about(where):
            return load(frame if self._rgb else self._shown(frame))

    def digest(self, index: int) -> str:
        """sha256 of the frame's values and the contrast limits."""
        frame = self._frame(index)
        facts = f"{frame.shape} {frame.dtype} {self._rgb} {self._limits}".encode()
        return hashlib.sha256(facts + np.ascontiguousarray(frame).tobytes()).hexdigest()

    def _frame(self, index: int) -> Array:
        return np.asarray(self._data[index] if self.is_clip else self._data)

    def _shown(self, frame: Array) -> Array:
        """Grey values from 0, the lower contrast limit, to 1, the upper one."""
        low, high = self._limits
        pixels: Array = (frame.astype(np.float32) - low) / max(high - low, 1e-12)
        return pixels.clip(0, 1)


def require_same_axes(strokes: Any, source: LayerSource) -> None:
    """Raise InputError for a labels layer that has not the axes of the image."""
    if strokes.multiscale or tuple(strokes.data.shape) != source.shape:
        shape = "multiscale" if strokes.multiscale else _listed(strokes.data.shape)
        raise InputError(
            f"The labels layer {strokes.name!r} is {shape}, the image layer {source.name!r} {_listed(source.shape)}: "
            "choose a labels layer of the same size, or <new> for one"
        )


def require_same_place(strokes: Any, image: Any, shape: tuple[int, ...]) -> None:
    """Raise InputError for a labels layer whose pixels do not lie on those of the image, by scale, translation, affine.

    Args:
        shape: of both.
    """
    corners = np.array(list(itertools.product(*((0, side - 1) for side in shape))), dtype=np.float64)
    points = [image.world_to_data(strokes.data_to_world(corner)) for corner in corners]
    if not np.abs(np.array(points) - corners).max() <= 0.5:
        raise InputError(
            f"The labels layer {strokes.name!r} lies elsewhere than the image layer {image.name!r}: strokes would "
            "teach other pixels than those below them; give it the same scale and translation, or choose <new>"
        )


def _listed(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
