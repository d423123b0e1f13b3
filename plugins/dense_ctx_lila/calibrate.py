"""What a decoder takes from the data outside of gradient steps: its first weights, and in the end its mean."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch

from dense_ctx.errors import ConfigError
from dense_ctx.model import DenseModel

from .sampling import FramePairs


def drawn(data: FramePairs, count: int) -> Iterator[Any]:
    """`count` pairs, the same every time."""
    for index in random.Random(0).sample(range(len(data)), min(count, len(data))):
        yield data[index]


@torch.no_grad()
def start(model: DenseModel, data: FramePairs | None, count: int) -> None:
    """Give a decoder that has `fit_shortcut` its first weights, from both crops of `count` pairs.

    Raises:
        ConfigError: it has none, or there is no data.
    """
    fit = getattr(model.decoder, "fit_shortcut", None)
    if fit is None or data is None:
        raise ConfigError(
            f"start={count}: {type(model.decoder).__name__} has no fit_shortcut, or there is no data yet; "
            "use decoder dpt with shortcut=true, or start=0"
        )
    images = (torch.stack([pair["context"], pair["query"]]) for pair in drawn(data, count))
    fit(model.encode(pair.to(model.device))[0].maps for pair in images)


@torch.no_grad()
def centre(model: DenseModel, data: FramePairs | None, count: int) -> None:
    """Take from a decoder that has `shift` the mean of its features over `count` crops; others stay as they are."""
    shift = getattr(model.decoder, "shift", None)
    if shift is None or data is None or not count:
        return
    side = max(1, data.sampling.map_size // 4)
    crops = (pair["context"][None].to(model.device) for pair in drawn(data, count))
    shift(-torch.stack([model(crop, size=(side, side)).pixels.float().mean((0, 2, 3)) for crop in crops]).mean(0))
