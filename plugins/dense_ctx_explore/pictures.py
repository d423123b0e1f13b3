"""What the page shows, as files of pictures: labels and heat maps as palette PNG, photographs as JPEG."""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from dense_ctx.interfaces import Size
from dense_ctx.visualize import heat_picture

Array = np.ndarray[Any, np.dtype[Any]]
UNLABELLED = 255


def size_with(height: int, width: int, side: int | None) -> Size:
    """(H, W) of a picture whose longer side is `side`; None: as it is."""
    scale = 1.0 if side is None else side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def photograph(picture: Array, side: int | None) -> bytes:
    """A picture [H, W, 3] as JPEG, its longer side at most `side`; it is not enlarged."""
    height, width = size_with(picture.shape[0], picture.shape[1], side)
    image = Image.fromarray(picture)
    if height < picture.shape[0] or width < picture.shape[1]:
        image = image.resize((width, height), Image.Resampling.BOX if max(height, width) <= 512 else None)
    return _file(image, "JPEG", quality=90)


def labels_png(labels: Array, classes: Iterable[Any], clear: Iterable[int]) -> bytes:
    """Labels [H, W] as PNG: pixels are ids, the palette has the classes' colours.

    clear: ids that are transparent, as pixels without label are.
    """
    colours, alphas = np.zeros((256, 3), np.uint8), np.zeros(256, np.uint8)
    for item in classes:
        colours[item.id], alphas[item.id] = item.colour, 255
    alphas[[UNLABELLED, *clear]] = 0
    return _palette(labels.astype(np.uint8), colours, alphas)


def heat_png(values: Array, low: float, high: float, *, fades: bool = False) -> bytes:
    """Values [H, W] as PNG, blue for `low` and red for `high`. fades: the lower, the more transparent."""
    span = max(high - low, 1e-12)
    index = (np.clip(np.nan_to_num((values - low) / span), 0, 1) * 255).round().astype(np.uint8)
    ramp = np.arange(256)
    return _palette(index, _heat(), (ramp if fades else np.full(256, 255)).astype(np.uint8))


def picture_png(picture: Array) -> bytes:
    """A picture [H, W, 3] as PNG."""
    return _file(Image.fromarray(picture), "PNG", compress_level=1)


@cache
def _heat() -> Array:
    row: Array = heat_picture(torch.arange(256.0)[None], 0, 255)
    ramp: Array = row[0]
    return ramp


def _palette(index: Array, colours: Array, alphas: Array) -> bytes:
    image = Image.fromarray(index)
    image.putpalette(colours.tobytes())
    return _file(image, "PNG", compress_level=1, transparency=alphas.tobytes())


def _file(image: Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()
