"""Seconds of one image through backbone and head."""

from __future__ import annotations

import time
from typing import Any

import torch

from dense_ctx.interfaces import Size
from dense_ctx.model import DenseModel

ROUNDS, SECONDS = 5, 0.5  # at least: long enough for other programs to pause once


@torch.no_grad()
def seconds_per_image(model: DenseModel, image_size: Size, size: Size) -> dict[str, Any]:
    """Minimum over repeats, since other programs only add to it; and the grid of the deepest map.

    Returns:
        {"grid": [h, w], "backbone_seconds", "head_seconds"}.
    """
    image = torch.rand(1, 3, *image_size, generator=torch.Generator().manual_seed(0)).to(model.device)
    model.eval()
    backbone: list[float] = []
    head: list[float] = []
    began = time.perf_counter()
    while len(head) < ROUNDS or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        features, padded = model.encode(image)
        _synchronize(model.device)
        middle = time.perf_counter()
        model.decode(features, padded, image_size, size)
        _synchronize(model.device)
        backbone.append(middle - start)
        head.append(time.perf_counter() - middle)
    return {
        "grid": list(features.maps[-1].shape[-2:]), "backbone_seconds": min(backbone), "head_seconds": min(head)
    }  # fmt: skip


def _synchronize(device: torch.device) -> None:
    """Wait until the accelerator has finished its queue, which it works off asynchronously."""
    if device.type in ("cuda", "mps", "xpu"):
        getattr(torch, device.type).synchronize()
