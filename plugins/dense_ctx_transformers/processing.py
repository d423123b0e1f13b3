"""DenseImageProcessor: images to tensors in [0, 1]; the model's backbone normalises them itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BaseImageProcessor, BatchFeature

from dense_ctx.errors import InputError
from dense_ctx.images import ImageLike, load


class DenseImageProcessor(BaseImageProcessor):
    """Reads images as `dense_ctx.images.load` does; it changes no size and no value."""

    model_input_names = ("pixel_values",)

    def __call__(self, images: ImageLike | Sequence[ImageLike], return_tensors: str = "pt") -> BatchFeature:
        """The images as pixel_values, float32 [B, 3, H, W] in [0, 1].

        Args:
            images: one image or several of one size. return_tensors: "pt", the only one.

        Raises:
            InputError: images of several sizes, none, or another kind of tensors.
        """
        if return_tensors != "pt":
            raise InputError(f"return_tensors={return_tensors!r}: expected 'pt'")
        several: Any = images if isinstance(images, (list, tuple)) else [images]
        tensors = [load(image) for image in several]
        sizes = {tuple(image.shape[1:]) for image in tensors}
        if len(sizes) != 1:
            raise InputError(f"A batch has images of one size; got {sorted(sizes)}: give them one at a time")
        return BatchFeature({"pixel_values": torch.stack(tensors)})

    preprocess = __call__

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Tensor]:
        """Channels of the highest score, int64 [H, W] for each image; keys of `config.id2label`.

        Args:
            outputs: of the model, with logits [B, K, h, w]. target_sizes: (H, W) of each image; default h, w.

        Raises:
            InputError: not one size for each image.
        """
        logits = outputs["logits"]
        sizes = [tuple(logits.shape[-2:])] * len(logits) if target_sizes is None else list(target_sizes)
        if len(sizes) != len(logits):
            raise InputError(f"target_sizes has {len(sizes)} sizes for {len(logits)} images")
        return [
            torch.nn.functional.interpolate(one[None].float(), (int(h), int(w)), mode="bilinear")[0].argmax(0)
            for one, (h, w) in zip(logits, sizes, strict=True)
        ]
