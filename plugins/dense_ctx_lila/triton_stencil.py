"""Triton kernel of PAMR's iteration: each pixel's channels become the weighted sum of its neighbours'."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def iterate(source, weights, target, height, width, channels, DILATIONS: tl.constexpr, COUNT: tl.constexpr,
            PIXELS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """source, target [B, H, W, C]; weights [B, 8 * COUNT, H, W]. Borders are replicated; sums are float32.

    A program has PIXELS in a row of memory and BLOCK of their channels: of the 8 * COUNT reads of a pixel all but the
    first are of a cache.
    """
    image, size = tl.program_id(2).to(tl.int64), height * width
    blocks = tl.cdiv(channels, BLOCK)
    pixel = (tl.program_id(0) // blocks) * PIXELS + tl.arange(0, PIXELS)
    channel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    y, x = pixel // width, pixel % width
    inside = pixel < size
    mask = inside[:, None] & (channel < channels)[None]
    total = tl.zeros((PIXELS, BLOCK), tl.float32)
    for level in tl.static_range(COUNT):
        for window in tl.static_range(9):
            if window != 4:
                row = y + (window // 3 - 1) * DILATIONS[level]
                column = x + (window % 3 - 1) * DILATIONS[level]
                near = tl.minimum(tl.maximum(row, 0), height - 1) * width + tl.minimum(tl.maximum(column, 0), width - 1)
                place = level * 8 + window - (window > 4)
                weight = tl.load(weights + (image * 8 * COUNT + place) * size + pixel, inside, 0.0)
                values = tl.load(source + (image * size + near)[:, None] * channels + channel[None], mask, 0.0)
                total += weight[:, None] * values
    tl.store(target + (image * size + pixel)[:, None] * channels + channel[None], total, mask)
