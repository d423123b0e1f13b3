"""Crop the same square from a frame and from its cue maps of other resolutions."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

Box = tuple[float, float, float, float]  # top, left, height, width as shares of the frame


def scaled(frames: Tensor, side: int) -> Tensor:
    """[B, C, H, W] with a short side of at most `side`."""
    height, width = frames.shape[-2:]
    factor = side / min(height, width)
    if factor >= 1:
        return frames
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return functional.interpolate(frames, size=size, mode="bilinear", align_corners=False, antialias=True)


def draw_box(size: tuple[int, int], scale: Sequence[float], generator: random.Random | None) -> Box:
    """A square in a frame of (H, W), in whole pixels, as shares of the frame; without generator the middle one."""
    height, width = size
    short = min(size)
    side = short if generator is None else max(1, round(short * generator.uniform(*scale)))
    top = (height - side) // 2 if generator is None else generator.randint(0, height - side)
    left = (width - side) // 2 if generator is None else generator.randint(0, width - side)
    return top / height, left / width, side / height, side / width


def crop_image(image: Tensor, box: Box, size: int) -> Tensor:
    """Cut a box out of [3, H, W] and bring it to [3, size, size], antialiased."""
    height, width = image.shape[-2:]
    top, left = round(box[0] * height), round(box[1] * width)
    part = image[None, :, top : top + round(box[2] * height), left : left + round(box[3] * width)]
    return functional.interpolate(part, size=(size, size), mode="bilinear", align_corners=False, antialias=True)[0]


def crop_map(maps: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cut boxes [B, 4] out of maps [B, c, h, w] of any resolution: [B, c, size, size], bilinear; values stay.

    A flow keeps the units of the whole frame: cropping does not change where a pixel moves.
    """
    steps = (torch.arange(size, device=maps.device, dtype=maps.dtype) + 0.5) / size
    boxes = boxes.to(maps)
    y = boxes[:, 0, None] + steps * boxes[:, 2, None]
    x = boxes[:, 1, None] + steps * boxes[:, 3, None]
    grid = torch.stack([x[:, None].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], -1) * 2 - 1
    return functional.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
