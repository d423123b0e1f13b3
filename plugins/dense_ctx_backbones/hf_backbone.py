"""Any transformers vision encoder as a Backbone: `hf:REPO` or `hf:FOLDER`.

The layer rule is that of `timm_backbone`: hidden states after four evenly spaced blocks, prefix tokens stripped by
their number (all tokens less the grid's), final norm on unless `norm=False`. Hierarchical encoders give their stages.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from dense_ctx.create import placement
from dense_ctx.errors import InputError, WeightsError
from dense_ctx.interfaces import Features
from dense_ctx.persistence.file_args import LAYERS, TEXT, WEIGHTS

from .adapters import AdaptedBackbone, attach
from .hf_files import empty_net, hf_folder, read_config, statistics
from .unused import is_unused
from .weight_type import DTYPES, reading_as
from .weights import read_state

_FINAL_NORMS = ("layernorm", "post_layernorm", "norm", "layer_norm", "rms_norm")


class HfBackbone(AdaptedBackbone):
    """A transformers vision encoder.

    Args:
        repo: a Hub repository or a folder with config.json.
        weights: "pretrained" (of that repository or folder), another file, or None (random).
        layers: which blocks give the maps, counted from 0; default four evenly spaced (stages: all).
        norm: pass a plain ViT's maps through the encoder's final norm.
        revision: branch, tag or commit.
        prefix: of the encoder's tensors in a file that holds others beside them.
        config: a transformers configuration in place of the repository's.
        adapters: peft's, of this network: a folder that peft wrote (docs/backbones.md, "Adapters of peft").
        dtype: of the frozen weights, "float32" or "bfloat16", and they stay in it; None: float32, or as the model is
            opened and cast.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {
        "weights": WEIGHTS, "prefix": TEXT, "layers": LAYERS, "norm": bool, "revision": TEXT,
        "adapters": dict, "dtype": frozenset(DTYPES),
    }  # fmt: skip

    def __init__(
        self,
        repo: str,
        weights: str | os.PathLike[str] | None = "pretrained",
        layers: Sequence[int] | None = None,
        norm: bool = True,
        revision: str | None = None,
        config: Any = None,
        prefix: str | None = None,
        adapters: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        dtype: str | None = None,
    ) -> None:
        super().__init__()
        self.weights_dtype = dtype
        if prefix is not None and weights in ("pretrained", None):
            raise InputError(f"prefix={prefix!r} is of the names in a file: give weights=PATH with it")
        needed = config is None or weights == "pretrained"
        folder = hf_folder(repo, revision, weights == "pretrained") if needed else Path(repo)
        config = read_config(folder) if config is None else config
        config = getattr(config, "vision_config", None) or config
        if hasattr(config, "mask_ratio"):
            config.mask_ratio = 0.0  # MAE drops patches by default, in evaluation too
        with reading_as(dtype, adapters):
            self._read(config, repo, folder, weights, prefix)
        if dtype is not None:
            self.net.to(getattr(torch, dtype))
        self.config = config
        self.norm = norm
        self._configure(layers, repo)
        # RADIO normalises in the network
        own = hasattr(self.net, "input_conditioner")
        self.mean, self.std = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)) if own else statistics(folder)
        self._shuffles = "noise" in inspect.signature(self.net.forward).parameters
        self._interpolates = "interpolate_pos_encoding" in inspect.signature(self.net.forward).parameters
        attach(self.net, adapters, repo)
        self.eval()

    def _read(
        self, config: Any, repo: str, folder: Path, weights: str | os.PathLike[str] | None, prefix: str | None
    ) -> None:
        if weights is None:
            self.net = empty_net(config, repo)
            return
        self.source = repo if weights == "pretrained" else os.fspath(weights)
        # the file is read here and handed over: transformers would follow adapter_config.json to other
        # repositories, and open pickles; it still renames what its older versions saved
        shell = empty_net(config, repo, "meta")
        self.net, report = type(shell).from_pretrained(
            None,
            config=config,
            state_dict=read_state(folder if weights == "pretrained" else weights, prefix, shell),
            dtype=placement.get()[1] or torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )
        _complete(report, self.source, self.net)

    def _configure(self, layers: Sequence[int] | None, repo: str) -> None:
        config: Any = self.config
        widths = getattr(config, "hidden_sizes", None) or getattr(config, "embed_dims", None)
        self.plain = not widths
        if self.plain:
            patch, count = getattr(config, "patch_size", None), getattr(config, "num_hidden_layers", None)
            if not isinstance(patch, int) or not isinstance(count, int):
                raise InputError(f"hf:{repo} ({type(self.net).__name__}) states no patch_size and num_hidden_layers")
            indices = sorted({max(0, count * k // 4 - 1) for k in range(1, 5)})
            strides, dims = [patch] * count, [config.hidden_size] * count
        else:
            dims = [int(width) for width in cast(Any, widths)]
            count = len(dims)
            indices = list(range(count))
            first = int(getattr(config, "patch_size", 4))
            strides = [first * 2**index for index in range(count)]
        if layers is not None:
            if not layers or any(not -count <= index < count for index in layers):
                raise InputError(f"layers={list(layers)}: hf:{repo} has blocks or stages 0 to {count - 1}")
            indices = sorted({index % count for index in layers})
        self.layers = indices
        self.dims = tuple(int(dims[index]) for index in indices)
        self.strides = tuple(int(strides[index]) for index in indices)
        self.stride = int(strides[-1])
        size = getattr(config, "image_size", None) or 224
        self.image_size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    @classmethod
    def random_args(cls) -> dict[str, Any]:
        """weights=None; the configuration is still read."""
        return {"weights": None}

    def forward(self, images: Tensor) -> Features:
        """Encode normalised images [B, 3, H, W], H and W multiples of `stride`."""
        size = (images.shape[-2], images.shape[-1])
        options: dict[str, Any] = {}
        if self._interpolates and size != self.image_size:
            options["interpolate_pos_encoding"] = True
        if self._shuffles:  # MAE sorts its patches by noise: rising noise keeps them in place
            cells = (size[0] // self.stride) * (size[1] // self.stride)
            options["noise"] = torch.arange(cells, device=images.device).expand(len(images), -1)
        try:
            states = self.net(images, output_hidden_states=True, return_dict=True, **options).hidden_states
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            if size == self.image_size:
                raise
            raise InputError(
                f"{type(self.net).__name__} of transformers does not run on {size[0]} x {size[1]} pixels ({error}). It "
                f"was made for {self.image_size[0]} x {self.image_size[1]}: give images of that size, or use its name "
                "in `dense-ctx plugins backbone`, if it has one"
            ) from error
        maps, cls = [], None
        for index, stride in zip(self.layers, self.strides, strict=True):
            state = states[index + 1]
            if state.ndim == 3:
                height, width = size[0] // stride, size[1] // stride
                prefix = state.shape[1] - height * width
                if self.norm:
                    state = self._final_norm()(state)
                cls = state[:, 0] if prefix > 0 else None
                state = rearrange(state[:, prefix:], "b (h w) c -> b c h w", h=height)
            maps.append(state)
        return Features(tuple(maps), maps[-1].mean((2, 3)) if cls is None else cls, size)

    def _final_norm(self) -> nn.Module:
        for holder in (self.net, getattr(self.net, "vision_model", None), getattr(self.net, "encoder", None)):
            for name in _FINAL_NORMS:
                norm = getattr(holder, name, None)
                if isinstance(norm, nn.Module):
                    return norm
        return nn.Identity()

    def blocks(self) -> list[str]:
        """The encoder's longest list of modules, shallow to deep, then the final norm."""
        lists = {name: len(part) for name, part in self.named_modules() if isinstance(part, nn.ModuleList)}
        if not lists:
            return []
        longest = max(lists, key=lambda name: (lists[name], -len(name)))
        norm = self._final_norm()
        last = [name for name, part in self.named_modules() if part is norm]
        return [f"{longest}.{index}" for index in range(lists[longest])] + last


def _complete(report: dict[str, Any], source: str, net: nn.Module) -> None:
    """Check transformers' loading report; strict, except for tensors outside the encoder.

    Raises:
        WeightsError: names the missing, unexpected and wrongly shaped tensors.
    """
    shapes = [f"{key} {list(given)} for {list(own)}" for key, given, own in report["mismatched_keys"]]
    missing = [key for key in report["missing_keys"] if not is_unused(key)]
    extra = [key for key in report["unexpected_keys"] if not is_unused(key)]
    faults = [
        f"{len(items)} {kind} ({', '.join(sorted(items)[:4])}{' ...' if len(items) > 4 else ''})"
        for kind, items in (("missing", missing), ("unexpected", extra), ("of another shape", shapes))
        if items
    ]
    if faults:
        raise WeightsError(f"The weights of {source} do not fit {type(net).__name__}: tensors {'; '.join(faults)}")
