"""A backbone with low-rank adapters: "lora:NAME" is the backbone NAME with peft's LoRA on its linear layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dense_ctx.create import create_backbone, identity, random_args
from dense_ctx.errors import ConfigError
from dense_ctx.interfaces import Backbone, Features
from dense_ctx.persistence.file_args import TEXT, WEIGHTS

from .adapters import merge_layers, parameter_names

# the attention's projections, as timm and transformers call them
TARGETS = ("qkv", "q_proj", "k_proj", "v_proj", "query", "key", "value")


class LoraBackbone(Backbone):
    """A backbone some of whose layers add B A x (Hu et al. 2022); initially it computes what the bare one does.

    Under any objective the adapters train and the rest stays frozen; a checkpoint holds the adapters alone. Adapters
    that the bare backbone has from an earlier training are merged into its weights first.

    Args:
        of: name of a registered backbone, or the module.
        args: arguments of the named one.
        weights: of the named one: "pretrained" (as `args` say), a file, or None (random).
        rank: of the adapters; their scale is 1 (alpha = rank).
        targets: endings of the names of linear layers and convolutions (of one group); None: the attention's
            projections, or in a network without attention its pointwise convolutions.

    Raises:
        ConfigError: no layer has such a name; the names of its layers are listed.
    """

    # `of`'s own are checked where it is built
    file_args: ClassVar[Mapping[str, Any] | None] = {
        "args": dict, "weights": WEIGHTS, "rank": range(1, 1025), "targets": [TEXT],
    }  # fmt: skip

    def __init__(
        self,
        of: str | Backbone,
        args: Mapping[str, Any] | None = None,
        rank: int = 8,
        targets: Sequence[str] | None = None,
        weights: str | None = "pretrained",
    ) -> None:
        super().__init__()
        from peft import LoraConfig, inject_adapter_in_model

        if rank < 1:
            raise ConfigError(f"rank={rank} is not at least 1")
        if (args or {}).get("adapters") is not None:
            raise ConfigError("adapters beside those of lora:NAME: save a model with them, then use lora:model:FOLDER")
        if isinstance(of, str):
            own = random_args(of) if weights is None else {} if weights == "pretrained" else {"weights": weights}
            of = create_backbone(of, **{**(args or {}), **own})
        if any(isinstance(part, Backbone) and part.weights_dtype == "bfloat16" for part in of.modules()):
            raise ConfigError("lora: adapters train beside float32 weights; leave dtype=bfloat16 out of its args")
        merge_layers(of)
        names = _target_layers(of, targets)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # a model built again for its checkpoint starts alike
            config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=names)
            self.net: Any = inject_adapter_in_model(config, of)  # the backbone, its linear layers wrapped
        self.dims, self.strides, self.stride, self.links = of.dims, of.strides, of.stride, of.links
        self.mean, self.std, self.image_size, self.source = of.mean, of.std, of.image_size, of.source
        self.eval()

    def forward(self, images: Tensor) -> Features:
        """As the bare backbone's."""
        features: Features = self.net(images)
        return features

    def adapters(self) -> list[str]:
        """Names of the adapters' parameters."""
        return parameter_names(self)

    def blocks(self) -> list[str]:
        """The bare backbone's."""
        return [f"net.{name}" for name in self.net.blocks()]

    @classmethod
    def random_args(cls) -> dict[str, Any]:
        """weights=None."""
        return {"weights": None}

    @classmethod
    def identity(cls, of: str | Backbone, args: Mapping[str, Any] | None = None, **named: Any) -> str | None:
        """The bare backbone's."""
        return identity(of, args or {}) if isinstance(of, str) else None

    def stored_args(self, args: Mapping[str, Any], *, whole: bool) -> dict[str, Any]:
        """The bare backbone's, within `args`."""
        inner = self.net.stored_args(args.get("args") or {}, whole=whole)
        return {**args, "args": inner} if inner else dict(args)


def _target_layers(backbone: Backbone, targets: Sequence[str] | None) -> list[str]:
    """Names of the layers that get adapters."""
    layers = {
        name: layer
        for name, layer in backbone.named_modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    }
    endings = TARGETS if targets is None else tuple(targets)
    names = [name for name in layers if name.rpartition(".")[2] in endings]
    if not names and targets is None:
        names = [n for n, layer in layers.items() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)]
    if not names:
        suffixes = sorted({name.rpartition(".")[2] for name in layers})
        raise ConfigError(
            f"targets={None if targets is None else list(targets)}: {type(backbone).__name__} has no such linear layer "
            f"or convolution; it has {', '.join(suffixes) or 'none at all, so it takes no adapters'}"
        )
    return names
