"""Decoder: feature maps to a vector for every pixel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from ..errors import ContractError
from .features import Features, Size


class Decoder(nn.Module, ABC):
    """From a backbone's maps to features or predictions at any size.

    The registry calls `Decoder(dims=..., strides=..., **args)` with the backbone's own values.

    Attributes set by the subclass:
        dim: number of output channels.
        layers: indices of the maps that `forward` reads, negative ones from the end; None: all. A feature cache holds
            only these.

    Attributes set by the library:
        fresh: whether it has its initial random weights, so that training may initialise them from data. False from
            the first training step on, and after `load_state_dict` of it or of a model that contains it. During the
            setup of a resumed run: its value when the run began.
        image_mean, image_std: per-channel normalisation of the images that `forward` gets, the backbone's; outside of a
            DenseModel ImageNet's.
    """

    dim: int
    layers: tuple[int, ...] | None = None
    file_args: ClassVar[Mapping[str, Any] | None] = None  # as Backbone's
    fresh: bool = True
    image_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    image_std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def _load_from_state_dict(self, *args: Any) -> None:  # torch calls it for each module that loads, children too
        super()._load_from_state_dict(*args)
        self.fresh = False

    @abstractmethod
    def forward(self, features: Features, images: Tensor, size: Size) -> Tensor:
        """Decode to [B, dim, *size]. `images` is the normalised tensor [B, 3, H, W] that was encoded."""

    def __call__(self, features: Features, images: Tensor, size: Size) -> Tensor:
        """`forward`; raises ContractError for a result of another shape."""
        pixels: Tensor = super().__call__(features, images, size)
        if (shape := [*pixels.shape]) != (said := [features.maps[0].shape[0], self.dim, *size]):
            raise ContractError("shapes", f"decoder {type(self).__name__} gave {shape}; expected {said}")
        return pixels

    @classmethod
    def size_args(cls, size: Size, image_size: Size, strides: Sequence[int], args: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor arguments that follow from the sizes a model is used with; default none.

        Args:
            size: (H, W) of the outputs.
            image_size: (H, W) of the images.
            strides: the backbone's.
            args: the user's own, which take precedence.
        """
        return {}

    def initialise(self, batches: Iterable[Sequence[Tensor]]) -> bool:
        """Initialise the weights from data: the backbone's maps [B, C_l, h_l, w_l] of some images.

        Returns:
            False: not supported; nothing was read or changed (the default).
        """
        return False

    def shift(self, offset: Tensor) -> bool:
        """Add a vector [dim] to every decoded pixel from now on.

        Returns:
            False: not supported; nothing changed (the default).
        """
        return False
