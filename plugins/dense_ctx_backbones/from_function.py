"""A function from images to patch tokens as a backbone, so that any network can be evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Backbone, Decoder, Features, Size
from dense_ctx.model import DenseModel

# (images) -> tokens or maps; with a network (network, images) -> these, or (these, attention) as open-hummingbird asks
Function = Callable[..., Any]


class FunctionBackbone(Backbone):
    """A function of images [B, 3, H, W], normalised, that gives tokens [B, N, C] row by row, or maps [B, C, h, w].

    A pair is such an output and attention, which is not used: what open-hummingbird's `fn(model, images)` gives.

    Prefix tokens, where the function leaves them in, come first and are cut off: as many as N is above h * w, the
    same for every size.

    Args:
        function: called as it is, in whatever mode its network is.
        stride: pixels to a patch.
        mean, std: what images in [0, 1] are normalised by; default as they are.
        device: where images are given to the function.
        network: given to the function before the images; in eval mode from now on.

    Raises:
        InputError: the function gives something else, too few tokens for the stride, or a surplus that depends on the
            size.
    """

    def __init__(
        self,
        function: Function,
        stride: int,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        device: str | torch.device = "cpu",
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if stride < 1 or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise InputError(f"stride={stride}, mean={list(mean)}, std={list(std)}: at least 1, three, three above 0")
        self.function, self.stride, self.strides = function, stride, (stride,)
        self.network = None if network is None else network.eval().to(device)
        self.mean, self.std, self.image_size = tuple(mean), tuple(std), (16 * stride, 16 * stride)  # type: ignore[assignment]
        self.source = f"function {getattr(function, '__name__', type(function).__name__)}"
        draw = torch.Generator().manual_seed(0)
        probe = torch.rand(1, 3, 4 * stride, 4 * stride, generator=draw).to(device)
        # a fingerprint in place of weights: its output for a fixed input, so that functions are told apart
        self.fingerprint = nn.Parameter(torch.zeros(1, device=device), requires_grad=False)
        self.dims = (0,)
        self.prefix: int | None = None  # tokens before those of the patches
        with torch.no_grad():
            maps = self._maps(probe)
        self.dims = (maps.shape[1],)
        self.fingerprint = nn.Parameter(maps.float().mean((0, 2, 3)), requires_grad=False)

    def forward(self, images: Tensor) -> Features:
        """One map [B, C, H / stride, W / stride]; the global feature is its mean."""
        maps = self._maps(images)
        return Features((maps,), maps.mean((2, 3)), (images.shape[-2], images.shape[-1]))

    def _maps(self, images: Tensor) -> Tensor:
        grid = (images.shape[-2] // self.stride, images.shape[-1] // self.stride)
        output = self.function(images) if self.network is None else self.function(self.network, images)
        if isinstance(output, (tuple, list)) and len(output) == 2:
            output = output[0]
        if not isinstance(output, Tensor) or output.ndim not in (3, 4) or len(output) != len(images):
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InputError(
                f"The function gave {shape} for images {list(images.shape)}; expected tokens [B, N, C] or maps "
                "[B, C, h, w]"
            )
        if output.ndim == 3:
            surplus = output.shape[1] - grid[0] * grid[1]
            if surplus < 0:
                raise InputError(
                    f"The function gave {output.shape[1]} tokens for {list(images.shape[-2:])} pixels; at stride "
                    f"{self.stride} there are {grid[0]} x {grid[1]}. Is the stride right?"
                )
            if self.prefix is None:
                self.prefix = surplus
            elif surplus != self.prefix:
                raise InputError(
                    f"The function gave {output.shape[1]} tokens for {list(images.shape[-2:])} pixels, {surplus} more "
                    f"than the {grid[0]} x {grid[1]} at stride {self.stride}; for another size it gave {self.prefix} "
                    "more, and prefix tokens are as many for every size. Is the stride right?"
                )
            output = rearrange(output[:, surplus:], "b (h w) c -> b c h w", h=grid[0])
        elif tuple(output.shape[-2:]) != grid:
            raise InputError(
                f"The function gave maps of {list(output.shape[-2:])} for {list(images.shape[-2:])} pixels; at stride "
                f"{self.stride} they are {list(grid)}"
            )
        if self.dims[0] not in (0, output.shape[1]):
            raise InputError(f"The function gave {output.shape[1]} channels, {self.dims[0]} before")
        return output


class NearestPatch(Decoder):
    """The map as it is: nearest patch of each pixel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, features: Features, images: Tensor, size: Size) -> Tensor:
        """Each pixel's nearest patch, [B, dim, *size]."""
        return nn.functional.interpolate(features.maps[-1], size=size, mode="nearest")


def model_from_function(function: Function, stride: int, **options: object) -> DenseModel:
    """A model that `evaluate` and the probes take, of a function images -> patch tokens; see `FunctionBackbone`.

    model = model_from_function(lambda x: vit.forward_features(x), stride=14, mean=MEAN, std=STD)
    evaluate(model, "voc2012-retrieval-v1", "data/VOC2012", "runs/mine")
    """
    backbone = FunctionBackbone(function, stride, **options)  # type: ignore[arg-type]
    return DenseModel(backbone, NearestPatch(backbone.dims[0]))
