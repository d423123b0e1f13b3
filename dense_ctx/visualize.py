"""Pictures: label overlays, palettes, heat maps, contact sheets; and a text table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from .errors import InputError
from .files import new_file
from .gateway import gateway
from .interfaces import Size

Picture = np.ndarray[Any, np.dtype[np.uint8]]


def palette(count: int = 256) -> Picture:
    """The colours of VOC and DAVIS label images, uint8 [count, 3]: the bits of the index, spread over R, G, B."""
    bits = (np.arange(count)[:, None] >> np.arange(24) & 1).reshape(count, 8, 3)
    return np.asarray((bits << np.arange(7, -1, -1)[:, None]).sum(1), dtype=np.uint8)


@gateway
def overlay(image: Picture, labels: Tensor, colours: Picture | None = None, alpha: float = 0.55) -> Picture:
    """Blend labels [H, W] into an image [H, W, 3]; label 0 is transparent, borders between labels are white."""
    index = labels.cpu().numpy()
    if index.shape != image.shape[:2]:
        raise InputError(f"Labels {list(index.shape)} and image {list(image.shape[:2])} have different sizes")
    table = palette(max(256, int(index.max(initial=0)) + 1)) if colours is None else colours
    mixed = (1 - alpha) * image + alpha * table[index]
    picture = np.where((index > 0)[:, :, None], mixed, image)
    edge = np.zeros(index.shape, dtype=bool)
    edge[:, 1:] |= index[:, 1:] != index[:, :-1]
    edge[1:] |= index[1:] != index[:-1]
    picture[edge] = 255
    return np.asarray(picture.round(), dtype=np.uint8)


@gateway
def save_labels(path: str | os.PathLike[str], labels: Tensor, colours: Picture | None = None) -> Path:
    """Write labels [H, W] as PNG: with a palette up to id 255, VOC's and DAVIS' by default, as 16-bit grey above.

    Raises:
        InputError: an id is below 0 or above 65535.
        FileError: the file cannot be written.
    """
    index = labels.cpu().numpy()
    low, high = int(index.min(initial=0)), int(index.max(initial=0))
    if low < 0 or high > 65535:
        raise InputError(f"A label image holds ids 0 to 65535; got {low} to {high}")
    image = Image.fromarray(index.astype(np.uint8 if high < 256 else np.uint16))
    if high < 256:
        image.putpalette((palette() if colours is None else colours[:256]).tobytes())
    return save_picture(path, image)


@gateway
def save_picture(path: str | os.PathLike[str], picture: Picture | Image.Image) -> Path:
    """Write a picture atomically: it appears under its name only when complete.

    Raises:
        FileError: the file cannot be written.
    """
    path = Path(path)
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    with new_file(path, f"the picture {path}", faults=(ValueError,), sync=False) as partial:
        image.save(partial)
    return path


@gateway
def contact_sheet(rows: Sequence[Sequence[Picture]], captions: Sequence[str], titles: Sequence[str]) -> Image.Image:
    """Arrange pictures of one size in a grid, a caption left of each row and a title above each column."""
    height, width = rows[0][0].shape[:2]
    scale = max(1, round(240 / height))
    height, width = height * scale, width * scale
    margin, top, gap = 96, 28, 4
    size = (margin + len(titles) * (width + gap), top + len(rows) * (height + gap))
    sheet = Image.new("RGB", size, color=(255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for column, title in enumerate(titles):
        draw.text((margin + column * (width + gap), 6), title, fill=(0, 0, 0), font=font)
    for y, (caption, row) in enumerate(zip(captions, rows, strict=True)):
        draw.text((6, top + y * (height + gap) + height // 2 - 8), caption, fill=(0, 0, 0), font=font)
        for x, picture in enumerate(row):
            image = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(image, (margin + x * (width + gap), top + y * (height + gap)))
    return sheet


def fit(picture: Picture, size: Size) -> Picture:
    """Scale a picture [H, W, 3] to fit into `size` and centre it on white."""
    sheet = ImageOps.pad(Image.fromarray(picture), (size[1], size[0]), Image.Resampling.BILINEAR, "white")
    return np.asarray(sheet)


# dark blue, blue, teal, green, yellow, red: lightness increases up to the last, so it reads without colour vision
_HEAT = np.array([[48, 18, 59], [64, 100, 220], [33, 180, 190], [120, 220, 90], [250, 200, 50], [200, 40, 20]])


@gateway
def heat_picture(values: Tensor, low: float, high: float) -> Picture:
    """Colour values [H, W] from `low` (blue) to `high` (red); NaN is white."""
    valid = values.isfinite()
    position = ((values.nan_to_num(low) - low) / max(high - low, 1e-12)).clamp(0, 1).numpy() * (len(_HEAT) - 1)
    picture = np.stack([np.interp(position, range(len(_HEAT)), colour) for colour in _HEAT.T], -1)
    picture[~valid.numpy()] = 255
    return np.asarray(picture.round(), dtype=np.uint8)


@gateway
def normals_picture(normals: Tensor) -> Picture:
    """Colour unit normals [3, H, W] as (n + 1) / 2; NaN is white."""
    valid = normals.isfinite().all(0).numpy()
    picture = ((normals.nan_to_num(1.0).permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).numpy().astype(np.uint8)
    picture[~valid] = 255
    return picture


def text_table(lines: Sequence[Sequence[str]]) -> str:
    """Format an aligned Markdown table; the first line is the header."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    rule = "| " + " | ".join("-" * w for w in widths) + " |"
    return "\n".join([rows[0], rule, *rows[1:]])
