"""Triton kernels of LILA's loss: of a tile of pixels, prediction, targets and gradient, which never reach memory.

A tile is ROWS x COLUMNS pixels, its border the halo of the differences between neighbours: only what lies within the
border is the tile's own. `_gradient` does the work for a block of channels; two kernels use it. `by_pixel` walks over
the channels, and has the sums and the gradient of the pixels' features. `by_weight` has a block of channels and walks
over tiles, for the gradient of the weights: a second look costs less than to write the gradient of the prediction.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _product(left, right, pixel, inside, channel, channels, depth,
             LANES: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """left [pixels, depth] @ right [depth, channels] for the pixels and channels given, [LANES, len(channel)]."""
    total = tl.zeros((LANES, channel.shape[0]), tl.float32)
    for start in range(0, depth, DEPTH):
        inner = start + tl.arange(0, DEPTH)
        a = tl.load(left + pixel[:, None] * depth + inner[None], inside[:, None] & (inner < depth)[None], 0.0)
        b = tl.load(right + inner[:, None] * channels + channel[None],
                    (inner < depth)[:, None] & (channel < channels)[None], 0.0)  # fmt: skip
        total += tl.dot(a.to(tl.float32), b, input_precision=PRECISION)
    return total


@triton.jit
def _neighbour(values, lane, step: tl.constexpr, LANES: tl.constexpr):
    """Each lane gets another lane's values; those beyond the ends are of no pixel that counts."""
    index = tl.minimum(tl.maximum(lane + step, 0), LANES - 1)
    return tl.gather(values, tl.broadcast_to(index[:, None], values.shape), 0)


@triton.jit
def _pull(change, target, valid, sigma):
    """Derivative of weight * | |change| - |target| | by the change, and the term itself; 0 where it is not valid."""
    target = tl.abs(target)
    excess = tl.abs(change) - target
    weight = tl.where(valid, 1 - tl.exp(-target / sigma), 0.0)
    sign = tl.where(change * excess > 0, 1.0, tl.where(change * excess < 0, -1.0, 0.0))
    return sign * weight, tl.abs(excess) * weight


@triton.jit
def _place(tile, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Row and column of each lane, and whether it is the tile's own."""
    lane = tl.arange(0, ROWS * COLUMNS)
    across = tl.cdiv(width, COLUMNS - 2)
    y, x = lane // COLUMNS, lane % COLUMNS
    row, column = (tile // across) * (ROWS - 2) - 1 + y, (tile % across) * (COLUMNS - 2) - 1 + x
    own = (y > 0) & (y < ROWS - 1) & (x > 0) & (x < COLUMNS - 1) & (row < height) & (column < width)
    return row, column, own


@triton.jit
def _gradient(pixels, weights, bias, cell_shares, cells, offset, plain,
              row, column, own, channel, height, width, dim, depth,
              channels, mixed, along, down, sigma, COLUMNS: tl.constexpr, LANES: tl.constexpr,
              DEPTH: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Of an image's pixels and some channels, [LANES, channels]: gradient by the prediction, L1, edges along and down.

    along, down: what a difference of that axis counts, beside the 1 of a pixel's L1.
    """
    lane = tl.arange(0, LANES)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    pixel = (row * width + column).to(tl.int64)
    p = _product(pixels, weights, pixel, inside, channel, channels, dim, LANES, DEPTH, PRECISION)
    p += tl.load(bias + channel, channel < channels, 0.0)[None]
    t = _product(cell_shares, cells, pixel, inside, channel, mixed, depth, LANES, DEPTH, PRECISION)
    t += tl.load(offset + channel, channel < mixed, 0.0)[None]
    rest = (channel >= mixed) & (channel < channels)
    t += tl.load(plain + pixel[:, None] * (channels - mixed) + (channel - mixed)[None],
                 inside[:, None] & rest[None], 0.0)  # fmt: skip
    off = p - t
    grad = tl.where(off > 0, 1.0, tl.where(off < 0, -1.0, 0.0))
    right = (inside & (column + 1 < width) & (lane % COLUMNS < COLUMNS - 1))[:, None]
    pull, along_terms = _pull(_neighbour(p, lane, 1, LANES) - p, _neighbour(t, lane, 1, LANES) - t, right, sigma)
    before = tl.where((lane % COLUMNS > 0)[:, None], _neighbour(pull, lane, -1, LANES), 0.0)
    grad += along * (before - pull)
    below = (inside & (row + 1 < height) & (lane < LANES - COLUMNS))[:, None]
    pull, down_terms = _pull(
        _neighbour(p, lane, COLUMNS, LANES) - p, _neighbour(t, lane, COLUMNS, LANES) - t, below, sigma
    )
    before = tl.where((lane >= COLUMNS)[:, None], _neighbour(pull, lane, -COLUMNS, LANES), 0.0)
    grad += down * (before - pull)
    keep = own[:, None] & (channel < channels)[None]
    return (
        tl.where(keep, grad, 0.0), tl.where(keep, tl.abs(off), 0.0), tl.where(keep, along_terms, 0.0),
        tl.where(keep, down_terms, 0.0),
    )  # fmt: skip


@triton.jit
def by_pixel(pixels, weights, bias, cell_shares, cells, offset, plain,
             scaled, d_pixels, sums, height, width, dim, depth, channels,
             mixed, along, down, sigma, GRADIENT: tl.constexpr, ROWS: tl.constexpr,
             COLUMNS: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr, DIM: tl.constexpr,
             PRECISION: tl.constexpr):  # fmt: skip
    """Sums of each tile, [B, tiles, 3, K], and the gradient of DIM of the pixels' features; scaled [B, D, K]."""
    LANES: tl.constexpr = ROWS * COLUMNS
    image, size = tl.program_id(1).to(tl.int64), height * width
    row, column, own = _place(tl.program_id(0), height, width, ROWS, COLUMNS)
    feature = tl.program_id(2) * DIM + tl.arange(0, DIM)
    total = tl.zeros((LANES, DIM), tl.float32)
    place = sums + (image * tl.num_programs(0) + tl.program_id(0)) * 3 * channels
    for start in range(0, channels, BLOCK):
        channel = start + tl.arange(0, BLOCK)
        grad, fit, along_terms, down_terms = _gradient(
            pixels + image * size * dim, weights + image * dim * channels, bias + image * channels,
            cell_shares + image * size * depth, cells + image * depth * mixed, offset + image * mixed,
            plain + image * size * (channels - mixed), row, column, own, channel, height, width, dim, depth, channels,
            mixed, along, down, sigma, COLUMNS, LANES, DEPTH, PRECISION,
        )  # fmt: skip
        if tl.program_id(2) == 0:
            valid = channel < channels
            tl.store(place + channel, tl.sum(fit, 0), valid)
            tl.store(place + channels + channel, tl.sum(along_terms, 0), valid)
            tl.store(place + 2 * channels + channel, tl.sum(down_terms, 0), valid)
        if GRADIENT:
            back = tl.load(scaled + image * dim * channels + feature[None] * channels + channel[:, None],
                           (channel < channels)[:, None] & (feature < dim)[None], 0.0)  # fmt: skip
            total += tl.dot(grad, back, input_precision=PRECISION)
    if GRADIENT:
        to = d_pixels + image * size * dim + (row * width + column).to(tl.int64)[:, None] * dim + feature[None]
        tl.store(to, total.to(d_pixels.dtype.element_ty), own[:, None] & (feature < dim)[None])


@triton.jit
def by_weight(pixels, weights, bias, cell_shares, cells, offset, plain,
              d_weights, d_bias, height, width, dim, depth, channels, mixed,
              along, down, sigma, tiles, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
              BLOCK: tl.constexpr, DEPTH: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Gradients of weights and bias without the channels' shares, [splits, B, D, K] and [splits, B, K].

    A program has a block of channels, DIM of the features, an image, and every splits-th of its tiles.
    """
    LANES: tl.constexpr = ROWS * COLUMNS
    blocks = tl.cdiv(channels, BLOCK)
    image, size = tl.program_id(1).to(tl.int64), height * width
    channel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    feature = (tl.program_id(0) // blocks) * DIM + tl.arange(0, DIM)
    total, count = tl.zeros((DIM, BLOCK), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for tile in range(tl.program_id(2), tiles, tl.num_programs(2)):
        row, column, own = _place(tile, height, width, ROWS, COLUMNS)
        grad, _, _, _ = _gradient(
            pixels + image * size * dim, weights + image * dim * channels, bias + image * channels,
            cell_shares + image * size * depth, cells + image * depth * mixed, offset + image * mixed,
            plain + image * size * (channels - mixed), row, column, own, channel, height, width, dim, depth, channels,
            mixed, along, down, sigma, COLUMNS, LANES, DEPTH, PRECISION,
        )  # fmt: skip
        x = tl.load(pixels + image * size * dim + (row * width + column).to(tl.int64)[None] * dim + feature[:, None],
                    own[None] & (feature < dim)[:, None], 0.0)  # fmt: skip
        total += tl.dot(x.to(tl.float32), grad, input_precision=PRECISION)
        count += tl.sum(grad, 0)
    part = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + image
    to = d_weights + part * dim * channels + feature[:, None] * channels + channel[None]
    tl.store(to, total, (feature < dim)[:, None] & (channel < channels)[None])
    tl.store(d_bias + part * channels + channel, count, (channel < channels) & (tl.program_id(0) < blocks))
