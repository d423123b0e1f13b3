"""A backbone with low-rank adapters: "lora:NAME" is the backbone NAME with peft's LoRA on its linear layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dense_ctx.errors import ConfigError
from dense_ctx.interfaces import Backbone, Features
from dense_ctx.model import create_backbone, random_args

# the attention's projections, as timm and transformers call them
TARGETS = ("qkv", "q_proj", "k_proj", "v_proj", "query", "key", "value")


class LoraBackbone(Backbone):
    """A backbone whose chosen linear layers add B A x (Hu et al. 2022); as new it computes what the bare one does.

    A checkpoint of a model with it holds the adapters alone.

    Args:
        of: name of a registered backbone, or the module.
        args: arguments of the named one.
        weights: of the named one: "pretrained" (as `args` say), a file, or None (random).
        rank: of the adapters; their scale is 1 (alpha = rank).
        targets: endings of the names of the linear layers.

    Raises:
        ConfigError: no layer has such a name; those there are are listed.
    """

    def __init__(
        self,
        of: str | Backbone,
        args: Mapping[str, Any] | None = None,
        rank: int = 8,
        targets: Sequence[str] = TARGETS,
        weights: str | None = "pretrained",
    ) -> None:
        super().__init__()
        from peft import LoraConfig, inject_adapter_in_model

        if rank < 1:
            raise ConfigError(f"rank={rank} is not at least 1")
        made = _bare(of, args or {}, weights) if isinstance(of, str) else of
        linear = [name for name, part in made.named_modules() if isinstance(part, nn.Linear)]
        chosen = [name for name in linear if name.rpartition(".")[2] in tuple(targets)]
        if not chosen:
            known = sorted({name.rpartition(".")[2] for name in linear})
            raise ConfigError(
                f"targets={list(targets)}: {type(made).__name__} has no such linear layer; it has "
                f"{', '.join(known) or 'none at all: train=blocks'}"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # a model built again for its checkpoint starts alike
            config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=chosen)
            self.net = inject_adapter_in_model(config, made)
        self.dims, self.strides, self.stride, self.image_size = made.dims, made.strides, made.stride, made.image_size
        self.mean, self.std, self.source, self.links = made.mean, made.std, made.source, made.links
        self.eval()

    def forward(self, images: Tensor) -> Features:
        """As the bare backbone's."""
        features: Features = self.net(images)
        return features

    def adapters(self) -> list[str]:
        """Names of the adapters' parameters."""
        return [name for name, _ in self.named_parameters() if ".lora_" in name]

    def blocks(self) -> list[str]:
        """The bare backbone's."""
        return [f"net.{name}" for name in self.net.blocks()]

    @classmethod
    def random_args(cls) -> dict[str, Any]:
        """weights=None."""
        return {"weights": None}

    def stored_args(self, args: Mapping[str, Any], *, whole: bool) -> dict[str, Any]:
        """The bare backbone's, within `args`."""
        inner = self.net.stored_args(args.get("args") or {}, whole=whole)
        return {**args, "args": inner} if inner else dict(args)


def _bare(name: str, args: Mapping[str, Any], weights: str | None) -> Backbone:
    """The named backbone, with the weights that its own arguments, a file or chance give."""
    own = {"weights": weights}
    if weights is None:
        own = random_args(name)
    elif weights == "pretrained":
        own = {}
    return create_backbone(name, **{**args, **own})
