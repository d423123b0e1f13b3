"""Mask propagation by local k-nearest neighbours, as in DINO's DAVIS evaluation (Caron et al. 2021).

One frame is in memory at a time, plus the few that are context.

Each cell of a frame looks at the cells within a window around it in the first frame and the last few; the k most
similar, jointly over all those frames, vote with exp(cosine / temperature).

The window is small against the frame, so similarities are computed for tiles of queries against the tile and its margin
only: the same numbers as the dense affinity at a fraction of its time and memory.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.images import nearest

from .local_windows import Windows

_TILE = (8, 12)  # rows and columns of queries of a tile: the fastest of several at a 60 x 107 grid


class Propagator:
    """Soft labels from frame to frame on a grid of features.

    Args:
        features: the annotated frame's, [C, h, w], or those of several, [R, C, h, w]; need not be normalised.
        labels: their soft or one-hot labels, [K, h, w] or [R, K, h, w]; context for the whole clip. A cell whose labels
            sum to 0 is not annotated and votes for nothing.
        n_last_frames: how many previous frames are context beside the annotated ones.
        size_mask_neighborhood: the window is 2 n + 1 cells wide and high; 0 lifts the restriction.
        topk: neighbours that vote; ties with the last of them vote too.
        temperature: of exp(cosine / temperature).
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        n_last_frames: int = 7,
        size_mask_neighborhood: int = 12,
        topk: int = 5,
        temperature: float = 0.1,
    ) -> None:
        alike = features.ndim == labels.ndim in (3, 4) and features.shape[-2:] == labels.shape[-2:]
        if not alike or (features.ndim == 4 and len(features) != len(labels)):
            raise InputError(
                f"features [C, h, w] and labels [K, h, w] share a grid: "
                f"got {list(features.shape)} and {list(labels.shape)}"
            )
        if features.ndim == 3:
            features, labels = features[None], labels[None]
        if n_last_frames < 0 or size_mask_neighborhood < 0 or topk < 1 or not temperature > 0:
            raise InputError(
                f"n_last_frames={n_last_frames}, size_mask_neighborhood={size_mask_neighborhood}, topk={topk}, "
                f"temperature={temperature}: expected at least 0, 0, 1, and above 0"
            )
        self.topk, self.temperature = topk, temperature
        count, channels, height, width = features.shape
        self.radius = size_mask_neighborhood or max(height, width)
        # channels last, so that a tile's neighbourhood is a few long runs of memory; the first slots stay
        self._first, self._slots = count, count + n_last_frames
        self._keys = features.new_empty(self._slots, height, width, channels, dtype=torch.float32)
        self._values = labels.new_empty(self._slots, height, width, labels.shape[1], dtype=torch.float32)
        self._keys[:count] = _normalized(features)
        self._values[:count] = labels.movedim(1, -1)
        blank = labels.sum(1) == 0
        self._blank = blank if bool(blank.any()) else None
        if self._blank is not None and bool(blank.all()):
            raise InputError("No cell of the annotated frames has a label: nothing to propagate")
        self._steps = 0
        self._windows: Windows | None = None

    @torch.no_grad()
    def step(self, features: Tensor) -> Tensor:
        """Label the next frame: features [C, h, w] give soft labels [K, h, w]. The frame becomes context.

        Raises:
            InputError: another shape than the first frame's.
        """
        _, height, width, channels = self._keys.shape
        if features.shape != (channels, height, width):
            raise InputError(
                f"The frame's features are {list(features.shape)}; the first frame's were {[channels, height, width]}"
            )
        device = features.device  # the clip goes on where its frames are
        self._keys, self._values = self._keys.to(device), self._values.to(device)
        self._blank = None if self._blank is None else self._blank.to(device)
        query = _normalized(features[None])[0]
        frames = min(self._steps + self._first, self._slots)
        keys, values = self._keys[:frames], self._values[:frames]
        labels = None
        if device.type != "cpu":
            if self._windows is None or self._windows.device != device:
                self._windows = Windows(height, width, self.radius, device)
            labels = self._windows.propagate(query, keys, values, self._blank, self.topk, self.temperature)
        if labels is None:
            labels = _propagate(query, keys, values, self._blank, self.radius, self.topk, self.temperature)
        last = self._slots - self._first
        if last:  # replaces the oldest of the last frames
            slot = self._first + self._steps % last
            self._keys[slot], self._values[slot] = query, labels
        self._steps += 1
        return labels.movedim(-1, 0)


def _normalized(features: Tensor) -> Tensor:
    return functional.normalize(features.float(), dim=1).movedim(1, -1)


def _propagate(
    query: Tensor, keys: Tensor, values: Tensor, blank: Tensor | None, radius: int, topk: int, temperature: float
) -> Tensor:
    """query [h, w, C], keys [T, h, w, C], values [T, h, w, K], blank [R, h, w] of the first R frames -> [h, w, K]."""
    height, width, channels = query.shape
    result = values.new_empty(height, width, values.shape[-1])
    bands = []
    for top in range(0, height, _TILE[0]):
        bottom = min(top + _TILE[0], height)
        rows = slice(max(0, top - radius), min(height, bottom + radius))
        bands.append((top, bottom, rows, _distance(top, bottom, rows, query.device) > radius))
    for left in range(0, width, _TILE[1]):
        right = min(left + _TILE[1], width)
        columns = slice(max(0, left - radius), min(width, right + radius))
        column_far = _distance(left, right, columns, query.device) > radius
        # copied once: what is near a tile of the strip is then whole rows of it, one run of memory a frame
        strip, labels = keys[:, :, columns].contiguous(), values[:, :, columns].contiguous()
        for top, bottom, rows, row_far in bands:
            tile = query[top:bottom, left:right].reshape(-1, channels)
            near = strip[:, rows].flatten(1, 2)
            scores = tile.new_empty(len(tile), len(keys), near.shape[1])
            for frame, cells in enumerate(near):
                torch.mm(tile, cells.T, out=scores[:, frame])
            # [h tile, w tile, h near, w near]: outside the square window
            outside = (row_far[:, None, :, None] | column_far[None, :, None, :]).reshape(len(tile), 1, -1)
            scores.masked_fill_(outside, -torch.inf)
            if blank is not None:
                scores[:, : len(blank)].masked_fill_(blank[:, rows, columns].reshape(1, len(blank), -1), -torch.inf)
            votes = labels[:, rows].reshape(-1, labels.shape[-1])
            prediction = _vote(scores.flatten(1), votes, topk, temperature)
            result[top:bottom, left:right] = prediction.view(bottom - top, right - left, -1)
    return result


def _distance(start: int, stop: int, span: slice, device: torch.device) -> Tensor:
    own = torch.arange(start, stop, device=device)
    other = torch.arange(span.start, span.stop, device=device)
    return (own[:, None] - other[None, :]).abs()


def _vote(scores: Tensor, values: Tensor, topk: int, temperature: float) -> Tensor:
    """scores [Q, N], values [N, K] -> [Q, K]: the top k of each row, and all that tie with the last of them."""
    k = min(topk + 1, scores.shape[1])
    best, index = scores.topk(k, dim=1)
    if k > topk and bool(((best[:, topk] == best[:, topk - 1]) & best[:, topk].isfinite()).any()):
        # a tie at the threshold (exact repeats in the picture): keep all of it
        weights = torch.where(scores >= best[:, topk - 1 : topk], (scores / temperature).exp(), 0.0)
        return (weights @ values) / weights.sum(1, keepdim=True)
    best, index = best[:, :topk], index[:, :topk]
    weights = (best / temperature).exp()  # exp(-inf) = 0: outside the window
    # the least positive number: where no annotated cell is near, nobody votes and the sum is 0
    weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    return torch.einsum("qk,qkc->qc", weights, values[index])


def upsampled_votes(soft: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Soft labels [K, h, w] of a frame -> votes [K, H, W], as DINO's evaluation makes them; the largest wins.

    Bilinear upsampling by `stride`, each channel min-max normalised over the frame, then nearest neighbour to `size`
    (Pillow's rule: the cell a pixel's centre falls into).
    """
    large = soft
    if stride > 1:
        large = functional.interpolate(soft[None], scale_factor=stride, mode="bilinear", align_corners=False)[0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    scaled = torch.where(high > 0, (large - low) / (high - low).clamp_min(1e-12), large)
    return nearest(scaled, size)


def soft_to_labels(soft: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Soft labels [K, h, w] of a frame -> label map [H, W]: the largest of `upsampled_votes`."""
    native = (soft.shape[-2] * stride, soft.shape[-1] * stride)
    return nearest(upsampled_votes(soft, native, stride).argmax(0), size)
