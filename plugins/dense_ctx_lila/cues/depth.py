"""depth:depth-anything-v2-*: relative inverse depth from one frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError, WeightsError

from .base import Cue
from .weights import snapshot

PATCH = 14
CHUNK = 8  # frames at once
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# hidden size, layers, heads, layers read (from 1), neck's widths, fusion's width
SIZES: dict[str, tuple[int, int, int, list[int], list[int], int]] = {
    "small": (384, 12, 6, [3, 6, 9, 12], [48, 96, 192, 384], 64),
    "base": (768, 12, 12, [3, 6, 9, 12], [96, 192, 384, 768], 128),
    "large": (1024, 24, 16, [5, 12, 18, 24], [256, 512, 1024, 1024], 256),
}


class DepthAnything(Cue):
    """Depth Anything V2 (Yang et al. 2024, arXiv 2406.09414), transformers' model.

    Frames are resized with their aspect kept, so that the short side is `side` and both are multiples of 14; the
    prediction is brought back to the frame bilinearly. Larger values are nearer; scale and shift are the network's own
    for each frame, which `normalize_cues` takes out for the context frame only.

    Args:
        size: "small" (24.8 M parameters, Apache-2.0), "base" (97.5 M) or "large" (335.3 M; both CC-BY-NC-4.0).
        weights: "default" (depth-anything/Depth-Anything-V2-*-hf on the Hub), a folder with config.json and
            model.safetensors, or None (random).
        side: of the short side in the network, pixels.
        config: keyword arguments of transformers' DepthAnythingConfig, for an untrained network of another shape.

    Raises:
        WeightsError: the weights are unavailable, or do not match the network.
        InputError: another size, a side below 14, config together with weights.
    """

    channels = 1
    unit = "relative inverse depth"
    pair = False
    meaning = "larger is nearer, up to a scale and a shift of each frame"

    def __init__(
        self,
        size: str = "small",
        weights: str | None = "default",
        side: int = 518,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation

        if size not in SIZES:
            raise InputError(f"size={size!r}: expected one of {', '.join(SIZES)}")
        if not isinstance(side, int) or side < PATCH:
            raise InputError(f"side={side!r}: expected a whole number of pixels, at least {PATCH}")
        if config is not None and weights is not None:
            raise InputError("config describes an untrained network: pass weights=None with it")
        self.side = side
        if weights is None:
            configuration = DepthAnythingConfig(**(architecture(size) if config is None else dict(config)))
            self.network = DepthAnythingForDepthEstimation(configuration)
        else:
            repository = f"depth-anything/Depth-Anything-V2-{size.capitalize()}-hf"
            name = f"depth:depth-anything-v2-{size}"
            folder = snapshot(repository, name) if weights == "default" else Path(weights)
            self.source = repository if weights == "default" else weights
            self.network = _load(folder, name)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.eval()

    def forward(self, context: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Both frames, each for itself, in one batch."""
        frames = torch.cat([context, query])
        height, width = (int(value) for value in frames.shape[-2:])
        inner = network_size((height, width), self.side)
        parts = []
        mean, std = cast(Tensor, self.mean), cast(Tensor, self.std)
        for some in frames.split(CHUNK):
            small = functional.interpolate(some, inner, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
            depth = self.network((small - mean) / std).predicted_depth[:, None].float()
            parts.append(functional.interpolate(depth, (height, width), mode="bilinear", align_corners=False))
        first, second = torch.cat(parts).chunk(2)
        return first, second


def network_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The size in the network: short side `side`, aspect kept, each to the nearest multiple of 14, `side`'s at least.

    (480, 640) at 518 gives (518, 686).
    """
    least = max(PATCH, round(side / PATCH) * PATCH)
    scale = side / min(size)
    height, width = (max(least, round(value * scale / PATCH) * PATCH) for value in size)
    return height, width


def architecture(size: str) -> dict[str, Any]:
    """The published architecture as arguments of DepthAnythingConfig."""
    from transformers import Dinov2Config

    hidden, layers, heads, out, neck, fusion = SIZES[size]
    backbone = Dinov2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=518,
        patch_size=PATCH,
        out_indices=out,
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    return {
        "backbone_config": backbone,
        "reassemble_hidden_size": hidden,
        "neck_hidden_sizes": neck,
        "fusion_hidden_size": fusion,
    }


def _load(folder: Path, name: str) -> Any:
    from transformers import DepthAnythingForDepthEstimation

    missing = [file for file in ("config.json", "model.safetensors") if not (folder / file).is_file()]
    if missing:
        raise WeightsError(f"{folder} is no folder with weights of {name}: it lacks {' and '.join(missing)}")
    if (folder / "adapter_config.json").exists():
        raise WeightsError(f"{folder} holds an adapter (adapter_config.json), which is not loaded: merge it first")
    try:
        network, info = DepthAnythingForDepthEstimation.from_pretrained(  # nosec B615  # a local folder
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except Exception as error:
        raise WeightsError(
            f"The weights of {name} in {folder} cannot be read: {type(error).__name__}: {error}"
        ) from error
    # a tensor too many does no harm (versions of transformers differ in what they keep); one too few would be random
    faults = {key: sorted(map(str, info.get(key) or [])) for key in ("missing_keys", "mismatched_keys")}
    if any(faults.values()):
        misfits = "; ".join(
            f"{key.replace('_', ' ')}: {', '.join(value[:4])}" for key, value in faults.items() if value
        )
        raise WeightsError(f"The weights of {name} in {folder} do not fit: {misfits}")
    return network
