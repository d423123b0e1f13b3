"""The four roles (Backbone, Decoder, Objective, Probe) and what passes between them.

Axes are always [B, C, H, W], sizes (H, W), flow [B, 2, H, W] as (x, y) in pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from typing_extensions import Self

    from .model import DenseModel

Size = tuple[int, int]
Batch = Mapping[str, Any]  # what an Objective's data set collates to: names to tensors [B, ...] or lists
Task = Literal["segmentation", "regression"]


@dataclass(frozen=True)
class Features:
    """What a backbone returns.

    maps: shallow to deep, each [B, C_l, h_l, w_l], prefix tokens removed.
    cls: [B, C] global descriptor, or None where the backbone has none.
    image_size: (H, W) of the tensor that was encoded.
    """

    maps: tuple[Tensor, ...]
    cls: Tensor | None
    image_size: Size


@dataclass(frozen=True)
class DenseFeatures:
    """What a DenseModel returns: pixels [B, D, H, W], patches [B, C, h, w] (the deepest map), cls [B, C] or None.

    extent: share of the patch grid's height and width that the image covers; the rest is padding to the stride.
    """

    pixels: Tensor
    patches: Tensor
    cls: Tensor | None = None
    extent: tuple[float, float] = (1.0, 1.0)

    def on_pixels(self, low: Tensor) -> Tensor:
        """Bring a map on the patch grid, [B, K, h, w], to the pixel grid: bilinear, padding cut off."""
        height, width = self.pixels.shape[-2:]
        full = (max(height, round(height / self.extent[0])), max(width, round(width / self.extent[1])))
        if tuple(low.shape[-2:]) == full:
            return low[:, :, :height, :width]
        shrink = low.shape[-2] > full[0] or low.shape[-1] > full[1]
        large = functional.interpolate(low, size=full, mode="bilinear", align_corners=False, antialias=shrink)
        return large[:, :, :height, :width]

    def __iter__(self) -> Iterator[Tensor | None]:
        return iter((self.pixels, self.patches, self.cls))

    def to(self, *args: Any, **kwargs: Any) -> DenseFeatures:
        """Move or cast, as `Tensor.to`."""
        cls = None if self.cls is None else self.cls.to(*args, **kwargs)
        return DenseFeatures(self.pixels.to(*args, **kwargs), self.patches.to(*args, **kwargs), cls, self.extent)


@dataclass(frozen=True)
class Losses:
    """What an Objective returns: total [] to differentiate, logs of scalars [] to write down."""

    total: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)


class Backbone(nn.Module, ABC):
    """An encoder from images to a pyramid of feature maps.

    Attributes set by the subclass:
        dims: channels of each map, shallow to deep.
        strides: pixels per cell of each map.
        stride: what H and W of the input must divide by (patch size, or the deepest stride).
        mean, std: per-channel normalisation of an image in [0, 1].
        image_size: (H, W) of pre-training, where position embeddings need no interpolation.
        source: where the weights came from ("timm/vit_...", a file), or None when they are random.
    """

    dims: tuple[int, ...]
    strides: tuple[int, ...]
    stride: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: Size
    source: str | None = None

    @abstractmethod
    def forward(self, images: Tensor) -> Features:
        """Encode normalised images [B, 3, H, W], H and W multiples of `stride`."""

    def blocks(self) -> list[str]:
        """Names (prefixes of parameter names) of the sequential blocks, shallow to deep; the final norm last.

        Objectives that fine-tune "the last k blocks" pick from the end. Default: none known.
        """
        return []


class Decoder(nn.Module, ABC):
    """From a backbone's maps to features or predictions at any size.

    The registry calls `Decoder(dims=..., strides=..., **args)` with the backbone's own values.
    `dim` is the number of output channels.
    """

    dim: int

    @abstractmethod
    def forward(self, features: Features, images: Tensor, size: Size) -> Tensor:
        """Decode to [B, dim, *size]. `images` is the normalised tensor [B, 3, H, W] that was encoded."""


class Objective(nn.Module, ABC):
    """What to learn from what. May own parameters (a projector); they are dropped from the published model."""

    @abstractmethod
    def dataset(self, data: Any) -> Dataset[Any]:
        """Make the data set of pairs, clips or episodes from what the user names (a folder, a list of files)."""

    def collate(self, samples: list[Any]) -> Batch:
        """Join samples to a batch; default: torch's own collation."""
        from torch.utils.data import default_collate

        batch: Batch = default_collate(samples)
        return batch

    def trainable(self, model: DenseModel) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser. Default: the decoder's and this objective's parameters."""
        groups = [{"params": [p for p in part.parameters() if p.requires_grad]} for part in (model.decoder, self)]
        return [group for group in groups if group["params"]]

    @abstractmethod
    def forward(self, model: DenseModel, batch: Batch) -> Losses:
        """Compute the losses of one batch."""

    def after_step(self, model: DenseModel, step: int) -> None:
        """Run after each optimiser step (EMA teachers). Default: nothing."""

    def finish(self, model: DenseModel) -> None:
        """Run once after the last step, in the first process, before the model is written. Default: nothing."""


class Probe(ABC):
    """Reads predictions out of features, with scikit-learn's verbs; fitted state ends in "_".

    Args:
        task: "segmentation" (targets [B, H, W] int64 class indices, -1 is ignored) or
            "regression" (targets [B, K, H, W] float, NaN is ignored).
    """

    # True: targets at the image's own size are welcome, however coarse the grid of the pixel features
    pixel_targets: ClassVar[bool] = False
    incremental: ClassVar[bool] = True  # False: each partial_fit starts from what it stored, at a cost that grows

    def __init__(self, task: Task = "segmentation") -> None:
        self.task = task

    @abstractmethod
    def partial_fit(self, features: DenseFeatures, targets: Tensor) -> Self:
        """Learn from B more images, on top of what was learned before. New classes may appear at any call."""

    @abstractmethod
    def predict(self, features: DenseFeatures, size: Size | None = None) -> Tensor:
        """Predict [B, K, *size]: class probabilities (they sum to 1 over K) or values. size: default the pixels'."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Return the fitted state as tensors, for safetensors."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take a fitted state back."""
