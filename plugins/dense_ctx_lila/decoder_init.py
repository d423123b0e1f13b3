"""What a decoder takes from the data outside of gradient steps: its first weights; in the end mean and spectrum."""

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
def finish(model: DenseModel, data: FramePairs | None, count: int, spectrum: float) -> None:
    """Take from the features their mean over `count` crops, and set their spectrum; see `LilaObjective`.

    Decoders without `shift` stay as they are.
    """
    decoder: Any = model.decoder
    if not hasattr(decoder, "shift") or data is None or not count:
        return
    side = max(1, data.sampling.map_size // 4)
    crops = (pair["context"][None].to(model.device) for pair in drawn(data, count))
    rows = torch.cat([model(crop, size=(side, side)).pixels[0].flatten(1).T.double().cpu() for crop in crops])
    mean = rows.mean(0)
    if spectrum == 1:
        decoder.shift(-mean)
        return
    values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    values = values.clamp_min(1e-9 * float(values[-1]))
    wanted = values**spectrum * (values.sum() / (values**spectrum).sum())
    decoder.recolour(mean, vectors * (wanted / values).sqrt() @ vectors.T)


def needs_mix(model: DenseModel, spectrum: float) -> None:
    """Refuse a spectrum that the decoder cannot take, before the training and not after it.

    Raises:
        ConfigError: it has no `mix`.
    """
    if spectrum != 1 and getattr(model.decoder, "mix", None) is None:
        raise ConfigError(
            f"spectrum={spectrum}: {type(model.decoder).__name__} has no matrix to set; use decoder dpt with mix=true, "
            "or spectrum=1"
        )
