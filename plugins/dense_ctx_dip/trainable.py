"""Which of a model's weights DIP trains: the backbone's last blocks, its adapters, or the decoder's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from dense_ctx.errors import ConfigError
from dense_ctx.interfaces import Backbone
from dense_ctx.model import DenseModel

Train = Literal["blocks", "adapters", "decoder"]


def choose(model: DenseModel, train: Train, blocks: int | None) -> list[nn.Parameter]:
    """Unfreeze and return the parameters that train.

    Args:
        train: "blocks", "adapters" (what `backbone.adapters()` names) or "decoder".
        blocks: how many, from the end, with the final norm; None: 3 of a plain ViT, the last stage of a hierarchy.

    Raises:
        ConfigError: there are none of these parameters, or fewer blocks.
    """
    if train == "decoder":
        decoder = list(model.decoder.parameters())
        if not decoder:
            raise ConfigError(
                f"train=decoder, but {type(model.decoder).__name__} has no parameters: train blocks or adapters, or "
                "take another decoder"
            )
        return decoder
    if train == "adapters":
        names = model.backbone.adapters()
        if not names:
            config = model.model_config
            name = type(model.backbone).__name__ if config is None else config.backbone.name
            raise ConfigError(
                f"train=adapters, but the backbone {name} has none: use backbone lora:"
                f"{'NAME' if config is None else name}, or train=blocks"
            )
        return _unfreeze(model, names)
    hierarchical = len(set(model.backbone.strides)) > 1
    if hierarchical and blocks is None:
        names = last_stage(model.backbone)
    else:
        names = last_blocks(model.backbone, 3 if blocks is None else blocks)
    return _unfreeze(model, names)


def _unfreeze(model: DenseModel, names: list[str]) -> list[nn.Parameter]:
    unfrozen = set(model.unfreeze(*names))
    return [p for name, p in model.backbone.named_parameters() if name in unfrozen]


def last_blocks(backbone: Backbone, count: int) -> list[str]:
    """Prefixes of the last `count` blocks and of the final norm.

    Raises:
        ConfigError: there are not so many.
    """
    names = backbone.blocks()
    norm = [name for name in names[-1:] if "norm" in name.rpartition(".")[2] or name.endswith(("_ln", ".ln"))]
    blocks = names[: len(names) - len(norm)]
    if not 1 <= count <= len(blocks):
        raise ConfigError(
            f"blocks={count}, but {type(backbone).__name__} names {len(blocks)} blocks"
            + (": ask for 1 to that many" if blocks else ": train=adapters or train=decoder")
        )
    return blocks[-count:] + norm


def last_stage(backbone: Backbone) -> list[str]:
    """Names of the parameters that reach the deepest map and none of the others.

    Found by gradients: what a network calls its blocks and where a stage begins differ from family to family.
    """
    before = {name: p.requires_grad for name, p in backbone.named_parameters()}
    side = 2 * backbone.stride
    reference = next(backbone.parameters())
    image = torch.zeros(1, 3, side, side, device=reference.device, dtype=reference.dtype)
    backbone.requires_grad_(True)
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            maps = backbone(image).maps
            table = dict(backbone.named_parameters())
            parameters = list(table.values())
            sums = [item.sum() for item in maps]
            shallow = (
                [None] * len(parameters)
                if len(sums) == 1
                else torch.autograd.grad(torch.stack(sums[:-1]).sum(), parameters, allow_unused=True, retain_graph=True)
            )
            deep = torch.autograd.grad(sums[-1], parameters, allow_unused=True)
    finally:
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(before[name])
    pairs = zip(table, shallow, deep, strict=True)
    return [name for name, other, own in pairs if own is not None and other is None]
