"""Decoder: feature maps to a vector for every pixel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from .features import Features, Size


class Decoder(nn.Module, ABC):
    """From a backbone's maps to features or predictions at any size.

    The registry calls `Decoder(dims=..., strides=..., **args)` with the backbone's own values.

    Attributes set by the subclass:
        dim: number of output channels.
        layers: indices of the maps that `forward` reads, negative ones from the end; None: all. A cache of features
            holds those alone.

    Attributes set by the library:
        fresh: it has the weights it was made with, so a training may initialise them from data. False from the first
            training step on, and after weights were loaded, by `load_state_dict` of it or of a model that holds it.
            While a run that resumes is set up: whether it was when that run began.
    """

    dim: int
    layers: tuple[int, ...] | None = None
    file_args: ClassVar[Mapping[str, Any] | None] = None  # as Backbone's
    fresh: bool = True

    def _load_from_state_dict(self, *args: Any) -> None:  # what torch calls for each module that loads, children too
        super()._load_from_state_dict(*args)
        self.fresh = False

    @abstractmethod
    def forward(self, features: Features, images: Tensor, size: Size) -> Tensor:
        """Decode to [B, dim, *size]. `images` is the normalised tensor [B, 3, H, W] that was encoded."""

    @classmethod
    def size_args(cls, size: Size, image_size: Size, strides: Sequence[int], args: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor arguments that follow from the sizes a model is made for; default none.

        Args:
            size: (H, W) of the outputs.
            image_size: (H, W) of the images.
            strides: the backbone's.
            args: what the user gave; it stands above what is returned.
        """
        return {}

    def initialise(self, batches: Iterable[Sequence[Tensor]]) -> bool:
        """Set the first weights from data: the maps [B, C_l, h_l, w_l] of some images, as the backbone gives them.

        Returns:
            False: not supported, nothing was read and nothing changed (the default).
        """
        return False

    def shift(self, offset: Tensor) -> bool:
        """Add a vector [dim] to every pixel decoded from now on.

        Returns:
            False: not supported, nothing changed (the default).
        """
        return False
