"""Backbone: images to feature maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from ..errors import ContractError
from .features import Features, Size


class Link(NamedTuple):
    """A saved model that a backbone is built on: its name, its folder, whether it exists on this machine only."""

    name: str
    folder: Path
    local: bool


class Backbone(nn.Module, ABC):
    """An encoder from images to a pyramid of feature maps.

    Attributes set by the subclass:
        dims: channels of each map, shallow to deep.
        strides: pixels per cell of each map.
        stride: H and W of the input are multiples of it (patch size, or the deepest stride).
        mean, std: per-channel normalisation of an image in [0, 1].
        image_size: (H, W) of pre-training, where position embeddings need no interpolation.
        source: where the weights came from ("timm/vit_...", a file), or None when they are random.
        links: the saved models it is built on, nearest first.
    """

    dims: tuple[int, ...]
    strides: tuple[int, ...]
    stride: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: Size
    source: str | None = None
    links: tuple[Link, ...] = ()
    weights_dtype: str | None = None  # in which its weights stay, if the arguments say it; maps: in that of the images
    # arguments that may come from a file: `dense_ctx.persistence.file_args`; None: bounded numbers alone
    file_args: ClassVar[Mapping[str, Any] | None] = None

    @abstractmethod
    def forward(self, images: Tensor) -> Features:
        """Encode normalised images [B, 3, H, W], H and W multiples of `stride`."""

    def __call__(self, images: Tensor) -> Features:
        """`forward`; raises ContractError for maps that are not as `dims` and `strides` say."""
        features: Features = super().__call__(images)
        batch, _, height, width = images.shape
        gave = [[*item.shape] for item in features.maps], (*features.image_size,)
        said = [[batch, d, height // s, width // s] for d, s in zip(self.dims, self.strides, strict=True)]
        if gave != (said, (height, width)):
            text = f"backbone {type(self).__name__}: maps and image_size {gave}"
            raise ContractError("shapes", f"{text}; dims and strides say {said, (height, width)}")
        return features

    def blocks(self) -> list[str]:
        """Names (prefixes of parameter names) of the sequential blocks, shallow to deep; the final norm last.

        Objectives that fine-tune "the last k blocks" pick from the end. Default: none known.
        """
        return []

    def adapters(self) -> list[str]:
        """Names of the adapter parameters (LoRA), which train under any objective while the rest stays frozen.

        They train with the decoder and are stored in the checkpoint. Default: none.
        """
        return []

    @classmethod
    def random_args(cls) -> dict[str, Any]:
        """Arguments that build it with random weights, without reading or downloading any. Default: {}."""
        return {}

    @classmethod
    def identity(cls, *args: Any, **named: Any) -> str | None:
        """A digest of files that the constructor's arguments name and that may change (a folder's model).

        Called without building the backbone; part of the settings of a benchmark's cell. Default None: the arguments
        determine everything.

        Raises:
            FileError: such a file is missing.
        """
        return None

    def stored_args(self, args: Mapping[str, Any], *, whole: bool) -> dict[str, Any]:
        """The arguments to write into a model's config.json. Default: `args` as they are.

        Args:
            args: those it was built with. Defaults and values from files that may change are written out.
            whole: the checkpoint holds all its tensors: these and `random_args` must suffice to build it.
        """
        return dict(args)
