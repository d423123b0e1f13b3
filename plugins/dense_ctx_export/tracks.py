"""Mask propagation as a source of an export: the graph of a frame's keys, and the steps that it must equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from dense_ctx_predict.tracking import MaskTracker
from dense_ctx_probes.local_knn import Propagator
from dense_ctx_probes.local_windows import Windows
from dense_ctx_runtime.geometry import Array
from dense_ctx_runtime.graph_model import GraphModel
from dense_ctx_runtime.windows import cuts
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import ConfigError
from dense_ctx.images import ImageLike, load
from dense_ctx.interfaces import Size
from dense_ctx.model import DenseModel

from .graph import Dims, Graph, Outputs

SETTINGS = ("n_last_frames", "size_mask_neighborhood", "topk", "temperature")
_LABELS, _BLOBS = 3, (4, 5)  # of the check's mask


class KeyGraph(Graph):
    """A frame's features on the grid of a `MaskTracker`, scaled to unit length; `votes.attach_votes` adds the rest."""

    names = ("map",)
    decodes_at_size = True

    def __init__(self, model: DenseModel, stride: int) -> None:
        super().__init__(model)
        self.cell = stride

    def forward(self, image: Tensor, rows_cut: Tensor, columns_cut: Tensor) -> Outputs:
        """[1, 3, H, W] to [1, D, h, w]; the matrices cut the padding off the decoded grid, [h, c] and [w, c]."""
        features, normalised = self.encode(image)
        pixels = self.decoder(features, normalised, (rows_cut.shape[1], columns_cut.shape[1]))
        return (functional.normalize(torch.matmul(torch.matmul(rows_cut, pixels), columns_cut.T), dim=1),)

    def example(self, size: Size) -> dict[str, Tensor]:
        """Inputs for an image of `size`, by name."""
        inputs = super().example(size)
        full = inputs["image"].shape[-2:]
        matrices = cuts(size, (full[0], full[1]), self.cell)
        return inputs | {name: torch.from_numpy(matrix) for name, matrix in matrices.items()}

    def dims(self) -> Dims:
        """The image's sides; those of the grid, with and without padding."""
        return {**super().dims(), "rows_cut": ("n", "p"), "columns_cut": ("m", "q")}


def settings_of(tracker: MaskTracker) -> dict[str, Any]:
    """`Facts.track` of a tracker.

    Raises:
        ConfigError: an option that an exported file has no place for.
    """
    if tracker.max_memory is not None:
        raise ConfigError("An exported tracker does not tile frames: leave max_memory out")
    options = dict(tracker.options)
    recall = options.pop("recall")
    if recall is not None:
        raise ConfigError(f"recall={recall} cannot be exported: leave it out, or track with dense_ctx itself")
    Propagator(torch.ones(1, 1, 1), torch.ones(1, 1, 1), **options)  # refuses values out of their range
    return {"stride": tracker.stride, **options}


class TrackCheck:
    """Three frames made of one image, that is the image and two shifts of it, and a mask: the step to the last one.

    Args:
        tracker: of the model that was exported, in float32 on the CPU. settings: its own.
    """

    def __init__(self, tracker: MaskTracker, settings: Mapping[str, Any]) -> None:
        self.tracker, self.settings = tracker, settings
        self._image: ImageLike | None = None
        self._steps: tuple[list[Tensor], list[Tensor]] = ([], [])

    def eager(self, image: ImageLike) -> dict[str, Tensor]:
        """The last frame's keys [1, D, h, w] and soft labels [1, K, h, w], by the library."""
        keys, labels = self._run(image)
        return {"keys": keys[-1][None], "labels": labels[-1][None]}

    def written(self, model: GraphModel, image: ImageLike) -> dict[str, Array]:
        """The same by the graph, from the same context."""
        keys, labels = ([item.movedim(0, -1) for item in items[:-1]] for items in self._run(image))
        last = _frames(image)[-1]
        context = {"context_keys": torch.stack(keys).numpy(), "context_labels": torch.stack(labels).numpy()}
        outputs = model.run(model.inputs(last[None].numpy()) | context)
        return {name: np.moveaxis(outputs[name], -1, 0)[None] for name in ("keys", "labels")}

    def ties(self, image: ImageLike, least: float) -> Tensor:
        """Cells [h, w] whose last voter is nearer than the next cell by less than `least`, in cosine."""
        keys, _ = self._run(image)
        query, context = keys[-1].flatten(1).T, torch.stack([item.flatten(1).T for item in keys[:-1]])
        height, width = keys[-1].shape[-2:]
        radius = self.settings["size_mask_neighborhood"] or max(height, width)
        windows = Windows(height, width, radius, torch.device("cpu"))
        scores = windows.scores(slice(None), query, context, None).flatten(2)
        k = self.settings["topk"]
        if scores.shape[2] <= k:
            return torch.zeros(height, width, dtype=torch.bool)
        best = scores.topk(k + 1, dim=2).values
        close = best[:, :, k - 1] - best[:, :, k] < least  # false of -inf less -inf
        return close.flatten()[windows.owner].view(height, width)

    @torch.inference_mode()
    def _run(self, image: ImageLike) -> tuple[list[Tensor], list[Tensor]]:
        """Keys [D, h, w] and soft labels [K, h, w] of the frames that vote for the last one, and of it."""
        if image is self._image:
            return self._steps
        maps = [self.tracker.frame(frame).features.pixels[0] for frame in _frames(image)]
        generator = torch.Generator().manual_seed(0)
        blobs = torch.randint(0, _LABELS, (1, 1, *_BLOBS), generator=generator).float()
        blobs[..., 0, :_LABELS] = torch.arange(_LABELS)
        first = functional.interpolate(blobs, maps[0].shape[-2:])[0, 0].long()
        labels = [functional.one_hot(first, _LABELS).movedim(-1, 0).float()]
        propagator = Propagator(maps[0], labels[0], *(self.settings[name] for name in SETTINGS))
        labels += [propagator.step(item) for item in maps[1:]]
        keys = [functional.normalize(item, dim=0) for item in maps]
        if self.settings["n_last_frames"] == 0:
            del keys[1], labels[1]
        self._image, self._steps = image, (keys, labels)
        return self._steps


def _frames(image: ImageLike) -> list[Tensor]:
    pixels = load(image)
    return [pixels.roll(shift, (1, 2)) for shift in ((0, 0), (2, 3), (5, 1))]
