"""Data-dependent initialisation of a decoder, and centring of its features after training."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import Dataset

from dense_ctx.errors import ConfigError
from dense_ctx.model import DenseModel


def sample_pairs(dataset: Dataset[Any], count: int) -> Iterator[Any]:
    """`count` pairs, the same every time; fewer where there are fewer."""
    samples: int = len(dataset)  # type: ignore[arg-type]
    for index in random.Random(0).sample(range(samples), min(count, samples)):
        yield dataset[index]


@torch.no_grad()
def initialise(model: DenseModel, dataset: Dataset[Any], count: int) -> None:
    """Initialise the decoder from the maps of both crops of `count` pairs.

    Raises:
        ConfigError: it cannot be initialised from data.
    """
    images = (torch.stack([pair["context"], pair["query"]]) for pair in sample_pairs(dataset, count))
    if not model.decoder.initialise(model.encode(pair.to(model.device))[0].maps for pair in images):
        raise ConfigError(
            f"start={count}: the decoder {_name(model)} cannot be initialised from data as it was made; take one that "
            "can, such as dpt with shortcut=true, or leave out start"
        )


@torch.no_grad()
def centre(
    model: DenseModel, dataset: Dataset[Any], count: int, side: int, start: tuple[nn.Module, nn.Module] | None = None
) -> None:
    """Shift the features so that their mean over `count` crops is 0; warn if unsupported.

    Args:
        side: crops are decoded at side x side.
        start: backbone and decoder before training; the mean becomes theirs, in place of 0.
    """
    rows: list[Tensor] = []
    for pair in sample_pairs(dataset, count):
        crop = pair["context"][None].to(model.device)
        size = (crop.shape[-2], crop.shape[-1])
        features, padded = model.encode(crop)
        pixels = model.decode(features, padded, size, (side, side)).double()
        if start is not None:
            pixels = pixels - model.decode(start[0](padded), padded, size, (side, side), start[1]).double()
        rows.append(rearrange(pixels, "1 c h w -> (h w) c").cpu())
    if not model.decoder.shift(-torch.cat(rows).mean(0)):
        warnings.warn(
            f"centre={count}: the decoder {_name(model)} cannot be shifted, so the mean of its features stays; "
            "cosines between them may say little. centre=0 asks for nothing",
            stacklevel=2,
        )


def _name(model: DenseModel) -> str:
    config = model.model_config
    return type(model.decoder).__name__ if config is None else config.decoder.name
