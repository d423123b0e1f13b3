"""The floating-point type in which a frozen backbone holds its weights: `dinov3-7b16(dtype=bfloat16)`.

It is an argument of the backbone, so a training's configuration and a saved model's config.json have it, and the same
weights are read again in the same type. Images are cast to it and maps back to the images' type, so that what is
trained on them stays float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dense_ctx.create import placed, placement
from dense_ctx.errors import CheckpointError, ConfigError
from dense_ctx.interfaces import Backbone, Features

DTYPES = ("float32", "bfloat16")  # float16 lacks the range of some networks' activations


@contextmanager
def reading_as(dtype: str | None, adapters: Any) -> Iterator[None]:
    """Within the context, weights are read in this type, one tensor after the other; None: as `create.placed` says.

    Raises:
        ConfigError: another type; or adapters, which train in float32, beside bfloat16.
    """
    if dtype not in (None, *DTYPES):
        raise ConfigError(f"dtype={dtype!r}: a backbone's weights are {' or '.join(DTYPES)}")
    refuse_adapters(dtype, adapters)
    device, kind = placement.get()
    with placed(device, kind if dtype is None else getattr(torch, dtype)):
        yield


def refuse_adapters(dtype: str | None, adapters: Any) -> None:
    """Raise ConfigError for adapters, which train in float32, beside bfloat16."""
    if dtype == "bfloat16" and adapters is not None:
        raise ConfigError(
            "adapters beside dtype=bfloat16: they would be trained and added in two bytes, where small changes round "
            "to nothing. Leave one of the two out"
        )


def in_own_type(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`fn`, which moves or casts a tensor, without the cast: a network of 7B parameters never becomes float32."""

    def move(value: Tensor) -> Tensor:
        moved = fn(value)
        return moved if moved.dtype == value.dtype else value.to(moved.device)

    return move


def cast_through(backbone: Backbone, encode: Any, images: Tensor) -> Features:
    """`encode` of images in the type of the weights; maps and cls in the type of the images.

    Raises:
        ConfigError: weights in bfloat16 train.
    """
    kind = next(backbone.parameters()).dtype
    if kind == torch.bfloat16 and torch.is_grad_enabled() and any(p.requires_grad for p in backbone.parameters()):
        raise ConfigError(
            "The backbone was opened with dtype=bfloat16, in which most steps of training would round to nothing: "
            "leave dtype out, or train the decoder alone"
        )
    features: Features = encode(images.to(kind))
    maps = tuple(item.to(images.dtype) for item in features.maps)
    return replace(features, maps=maps, cls=None if features.cls is None else features.cls.to(images.dtype))


def require_own_type(net: nn.Module, dtype: str | None) -> None:
    """Refuse to store a network that was itself cast, or replaced, after it was opened in another type.

    Raises:
        CheckpointError: names both types.
    """
    own = {str(value.dtype).removeprefix("torch.") for value in net.parameters() if value.is_floating_point()}
    if dtype is not None and own != {dtype}:
        raise CheckpointError(
            f"The backbone was opened with dtype={dtype} and its weights are {', '.join(sorted(own))} now, so its "
            f"configuration would give others: cast it back, model.backbone.net.to(torch.{dtype})"
        )


class SameDraws(TorchDispatchMode):
    """Within it, a weight that is made on the meta device draws as many random numbers as one with values would.

    So what is made after the network, a decoder or a projector, begins with the weights it has beside any other type.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._room = torch.empty(0)  # for all draws: tensors of their own would leave holes in the host's memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a drawing operation on a tensor of the host too, which is dropped."""
        first = args[0] if args else None
        if isinstance(first, Tensor) and first.is_meta and torch.Tag.nondeterministic_seeded in func.tags:
            if self._room.numel() < first.numel() or self._room.dtype != first.dtype:
                self._room = torch.empty(first.numel(), dtype=first.dtype)
            func(self._room[: first.numel()].view(first.shape), *args[1:], **(kwargs or {}))
        return func(*args, **(kwargs or {}))
