"""Mask propagation by local k-nearest neighbours, as in DINO's DAVIS evaluation (Caron et al. 2021).

One frame is in memory at a time, plus the few that are context.

Each cell of a frame looks at the cells within a window around it in the first frame and the last few; the k most
similar, jointly over all those frames, vote with exp(cosine / temperature).

The window is small against the frame, so similarities are computed for tiles of queries against the tile and its margin
only (`local_knn_tiles`): the same numbers as the dense affinity at a fraction of its time and memory.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.images import nearest

from .local_knn_recall import Recall, certainty
from .local_knn_tiles import Context, Rounded, propagated
from .local_windows import Windows
from .retrieval_blocks import multiplies_bfloat16


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
        recall: a cell takes the vote of the annotated frames' cells, wherever they lie, where these are nearer than
            those of the window by this difference of mean cosines (`local_knn_recall`); None: never, as DINO.

    Attributes:
        certainty: of the last frame's classes, [K]: the mean cosine between the cells each wins and their voters; 0
            where it wins none.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        n_last_frames: int = 7,
        size_mask_neighborhood: int = 12,
        topk: int = 5,
        temperature: float = 0.1,
        recall: float | None = None,
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
        if recall is not None and not recall >= 0:
            raise InputError(f"recall={recall}: expected a difference of cosines, at least 0, or None")
        self.topk, self.temperature, self.margin = topk, temperature, recall
        self.certainty = labels.new_ones(labels.shape[1])
        self._recall: Recall | None = None
        count, channels, height, width = features.shape
        self.radius = size_mask_neighborhood or max(height, width)
        # channels last, so that a tile's neighbourhood is a few long runs of memory; the first slots stay
        self._first, self._slots = count, count + n_last_frames
        self._keys = features.new_empty(self._slots, height, width, channels, dtype=torch.float32)
        self._values = labels.new_empty(self._slots, height, width, labels.shape[1], dtype=torch.float32)
        self._keys[:count] = _normalized(features)
        self._values[:count] = labels.movedim(1, -1)
        self._rounded: Rounded | None = None
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
        self._place(features.device)
        query = _normalized(features[None])[0]
        frames = min(self._steps + self._first, self._slots)
        keys, values = self._keys[:frames], self._values[:frames]
        labels = None
        if query.device.type != "cpu":
            if self._windows is None or self._windows.device != query.device:
                self._windows = Windows(height, width, self.radius, query.device)
            labels = self._windows.propagate(query, keys, values, self._blank, self.topk, self.temperature)
        if labels is None:
            rounded = None if self._rounded is None else self._rounded.first(frames)
            context = Context(keys, values, self._blank, rounded)
            labels = propagated(query, context, self.radius, self.topk, self.temperature)
        labels, cosines = labels[..., :-1], labels[..., -1]
        if self._recall is not None:
            labels = self._recall.vote(query, labels, cosines, self.topk, self.temperature)
        self.certainty = certainty(labels, cosines)
        last = self._slots - self._first
        if last:  # replaces the oldest of the last frames
            slot = self._first + self._steps % last
            self._keys[slot], self._values[slot] = query, labels
            if self._rounded is not None:
                self._rounded.put(slot, query)
        self._steps += 1
        return labels.movedim(-1, 0)

    def _place(self, device: torch.device) -> None:
        """Go on where the clip's frames are; a first look in bfloat16 where it pays."""
        if self._steps and self._keys.device == device:
            return
        self._keys, self._values = self._keys.to(device), self._values.to(device)
        self._blank = None if self._blank is None else self._blank.to(device)
        self._rounded = None
        if self.margin is not None:
            self._recall = Recall(self._keys[: self._first], self._values[: self._first], self.margin)
        if multiplies_bfloat16(device):
            self._rounded = Rounded.empty(self._keys, self._keys[: self._first].mean((0, 1, 2)))
            for slot in range(min(self._steps + self._first, self._slots)):
                self._rounded.put(slot, self._keys[slot])


def _normalized(features: Tensor) -> Tensor:
    return functional.normalize(features.float(), dim=1).movedim(1, -1)


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
