"""Any timm model as a Backbone.

Layer rule. A plain ViT of depth n gives four maps, after blocks n/4, n/2, 3n/4 and n (depth 12: blocks 2, 5, 8 and 11,
counted from 0), each through the network's final norm unless `norm=False`. Prefix tokens (class, registers) are
stripped by their number, never by position from the end. A hierarchical network gives its stages; networks with more
than four keep the deepest four. Blocks after the deepest map asked for are not run.
"""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, cast

import timm
import torch
from accelerate import init_empty_weights
from timm.models import load_state_dict_from_hf
from torch import Tensor, nn
from torch.nn import functional

from dense_ctx.create import placement
from dense_ctx.errors import InputError, UnknownNameError, WeightsError
from dense_ctx.interfaces import Features, Size
from dense_ctx.persistence.file_args import CHANNELS, LAYERS, TEXT, WEIGHTS, is_permitted
from dense_ctx.persistence.transfer import persevere

from .adapters import AdaptedBackbone, attach
from .convert import to_timm
from .positions import official_positions
from .weight_type import DTYPES, SameDraws, reading_as
from .weights import State, cached_state, hub_error, load_strictly, prefix_hint, read_state


def _SIZE(value: Any) -> bool:
    sides = value if isinstance(value, (list, tuple)) else [value, value]
    return len(sides) == 2 and is_permitted([range(1, 4097)], sides)


class TimmBackbone(AdaptedBackbone):
    """A timm network without its classifier.

    Args:
        model: timm's name, "vit_small_patch14_dinov2.lvd142m"; without a tag, timm's default weights.
        weights: "pretrained" (from the Hub), a file or folder, or None (random).
        layers: which blocks (ViT) or stages give the maps, counted from 0; default four, see the module.
        norm: pass a plain ViT's maps through its final norm.
        resize: run the network at the size it was made for, `image_size`, whatever the image's: the image is resized to
            it and the maps back to the grid of their strides, bilinear, each side by itself. For a network that takes
            no other size and is refused at one.
        prefix: of the network's tensors in a file that holds others beside them ("student.backbone.").
        adapters: peft's, of this network: a folder that peft wrote (docs/backbones.md, "Adapters of peft").
        dtype: of the frozen weights, "float32" or "bfloat16", read in it one by one, and they stay in it; None:
            float32, or as the model is opened and cast.
        **options: further arguments of `timm.create_model` (depth, embed_dim, img_size ...).
    """

    # all else that timm's create_model takes is left out: some of it leads to other repositories and files
    file_args: ClassVar[Mapping[str, Any] | None] = {
        "weights": WEIGHTS, "prefix": TEXT, "layers": LAYERS, "norm": bool, "resize": bool,
        "adapters": dict, "dtype": frozenset(DTYPES),
        "depth": range(1, 65), "depths": [range(1, 65)], "num_heads": range(1, 129), "embed_dim": CHANNELS,
        "dims": [CHANNELS], "img_size": _SIZE, "patch_size": range(1, 129), "mlp_ratio": (0.1, 16.0),
        "reg_tokens": range(65), "init_values": (0.0, 1.0), "qkv_bias": bool, "class_token": bool, "pre_norm": bool,
        "no_embed_class": bool, "dynamic_img_size": bool,
    }  # fmt: skip

    def __init__(
        self,
        model: str,
        weights: str | os.PathLike[str] | None = "pretrained",
        layers: Sequence[int] | None = None,
        norm: bool = True,
        resize: bool = False,
        prefix: str | None = None,
        adapters: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        dtype: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if prefix is not None and weights in ("pretrained", None):
            raise InputError(f"prefix={prefix!r} is of the names in a file: give weights=PATH with it")
        self.name, self.resize, self.weights_dtype = model, resize, dtype
        with reading_as(dtype, adapters):
            self._open(model, weights, layers, norm, prefix, options)
        if dtype is not None:
            self.net.to(getattr(torch, dtype))
        attach(self.net, adapters)
        self.eval()

    def _open(
        self,
        model: str,
        weights: str | os.PathLike[str] | None,
        layers: Sequence[int] | None,
        norm: bool,
        prefix: str | None,
        options: dict[str, Any],
    ) -> None:
        # of parameters that are read to their place none is held before; buffers are, a file may lack some
        empty = weights is not None and placement.get() != (None, None)
        with (
            init_empty_weights(include_buffers=False) if empty else nullcontext(),
            SameDraws() if empty and self.weights_dtype is not None else nullcontext(),
        ):
            self.net = self._build(model, options)
        official_positions(self.net)
        self._configure(layers, norm)
        if weights == "pretrained":
            self._load(self._pretrained(), self.source or model)
        elif weights is not None:
            self.source = os.fspath(weights)
            self._load(read_state(weights, prefix, self.net), self.source, prefix or "")

    def _build(self, model: str, options: dict[str, Any]) -> nn.Module:
        if not timm.is_model(model):
            near = difflib.get_close_matches(model.partition(".")[0], timm.list_models(), n=3, cutoff=0)
            raise UnknownNameError(f"timm {timm.__version__} has no model {model!r}. Closest: {', '.join(near)}")
        plain = (
            model.startswith(("vit_", "deit", "beit", "eva", "naflex", "flexivit", "aimv2")) and "_dinov3" not in model
        )
        swin = model.startswith("swin")
        switch: dict[str, Any] = {"dynamic_img_size": True} if plain else {"strict_img_size": False} if swin else {}
        if switch and not switch.keys() & options.keys():
            try:
                return timm.create_model(model, pretrained=False, num_classes=0, **switch, **options)
            except TypeError:
                pass  # a family that takes any size by itself, or none but its own
        try:
            return timm.create_model(model, pretrained=False, num_classes=0, **options)
        except TypeError as error:
            raise InputError(f"timm's {model} does not take {options}: {error}") from error

    def _configure(self, layers: Sequence[int] | None, norm: bool) -> None:
        net: Any = self.net
        if not hasattr(net, "forward_intermediates"):
            raise InputError(f"timm's {self.name} gives no intermediate maps (forward_intermediates)")
        stages = [(item["num_chs"], item["reduction"]) for item in net.feature_info]
        count = len(stages)
        self.plain = len({reduction for _, reduction in stages}) == 1
        if layers is None:
            indices = [count * k // 4 - 1 for k in range(1, 5)] if self.plain else list(range(count))[-4:]
            indices = sorted({max(0, index) for index in indices})
        else:
            if not layers or any(not -count <= index < count for index in layers):
                raise InputError(f"layers={list(layers)}: {self.name} has blocks or stages 0 to {count - 1}")
            indices = sorted({index % count for index in layers})
        self.layers = indices
        # SAM's "norm" is its neck, a projection to 256 channels trained for its own decoder
        self.norm = norm and not hasattr(net, "neck")
        # where it cannot be asked for them (CaiT, XCiT) its maps hold none
        splits = "return_prefix_tokens" in inspect.signature(net.forward_intermediates).parameters
        self.prefix_tokens = int(getattr(net, "num_prefix_tokens", 0) or 0) if splits else 0
        tokens = getattr(net, "embeds", net)  # of NaFlex networks
        self.has_cls = self.prefix_tokens > 0 and getattr(tokens, "cls_token", None) is not None
        self.dims = tuple(stages[index][0] for index in indices)
        self.strides = tuple(stages[index][1] for index in indices)
        self.stride = max(reduction for _, reduction in stages)
        config = net.pretrained_cfg
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        embed = getattr(net, "patch_embed", None)
        size = getattr(embed, "img_size", None) or config["input_size"][1:]
        self.image_size = (int(size[0]), int(size[1]))

    def _pretrained(self) -> State:
        config = cast(Any, self.net.pretrained_cfg)
        repository = config.get("hf_hub_id")
        if not repository:
            raise InputError(f"timm's {self.name} has no published weights; pass weights=None or a file")
        self.source = str(repository)
        try:
            cached = cached_state(repository, self.net)
            return cached or dict(persevere(lambda: load_state_dict_from_hf(repository, weights_only=True)))
        except WeightsError:
            raise
        except Exception as error:
            raise hub_error(error, str(repository), self.name) from error

    def _load(self, state: State, source: str, prefix: str = "") -> None:
        hint = prefix_hint(state, self.net.state_dict(), prefix)
        load_strictly(self.net, to_timm(state, self.net), source, hint)

    @classmethod
    def random_args(cls) -> dict[str, Any]:
        """weights=None."""
        return {"weights": None}

    def forward(self, images: Tensor) -> Features:
        """Encode normalised images [B, 3, H, W], H and W multiples of `stride`.

        Raises:
            InputError: the network was made for another size; it is named.
        """
        return self._encode(self.net, images)

    def _encode(self, net: Any, images: Tensor) -> Features:
        size = (images.shape[-2], images.shape[-1])
        if self.resize and size != self.image_size:
            images = functional.interpolate(images, self.image_size, mode="bilinear", antialias=True)
        maps, first = self._intermediates(net, images, size)
        grids = [(size[0] // stride, size[1] // stride) for stride in self.strides]
        if self.resize:  # some have other grids than their strides say at their own size too
            maps = tuple(functional.interpolate(m, to, mode="bilinear") for m, to in zip(maps, grids, strict=True))
        shapes = [tuple(m.shape[1:]) for m in maps]
        if shapes != [(dim, *grid) for dim, grid in zip(self.dims, grids, strict=True)]:
            raise self._refusal(size, f"its maps {shapes} are not on the grids {grids} of its strides")
        return Features(maps, maps[-1].mean((2, 3)) if first is None else first, size)

    def _intermediates(self, net: Any, images: Tensor, size: Size) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """The maps, and the class token where there is one."""
        arguments: dict[str, Any] = {"indices": self.layers, "intermediates_only": True, "output_fmt": "NCHW"}
        arguments["stop_early"] = True
        if self.plain:
            arguments["norm"] = self.norm
        if self.prefix_tokens:
            arguments["return_prefix_tokens"] = True
        try:
            outputs = net.forward_intermediates(images, **arguments)
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError) as error:  # how timm's networks say that a size is not theirs
            raise self._refusal(size, f"{type(error).__name__}: {error}") from error
        if not self.prefix_tokens:
            return tuple(outputs), None
        return tuple(output[0] for output in outputs), outputs[-1][1][:, 0] if self.has_cls else None

    def _refusal(self, size: Size, reason: str) -> InputError:
        height, width = self.image_size
        return InputError(
            f"timm's {self.name} does not run on {size[0]} x {size[1]} pixels ({reason}). It was made for {height} x "
            f"{width}: add resize=true, which brings images to that size and the maps back, or build it for your size "
            "with img_size=[H, W] if it takes that"
        )

    def blocks(self) -> list[str]:
        """The blocks or stages, shallow to deep, then the final norm."""
        for attribute in ("blocks", "stages", "layers"):
            parts = getattr(self.net, attribute, None)
            if isinstance(parts, (nn.Sequential, nn.ModuleList)):
                names = [f"net.{attribute}.{index}" for index in range(len(parts))]
                norm = getattr(self.net, "norm", None)
                learns = isinstance(norm, nn.Module) and any(True for _ in norm.parameters())
                return [*names, "net.norm"] if learns else names
        return []
