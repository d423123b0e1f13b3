"""Predict with a trained head: a model whose decoder's channels are classes or values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.config import Output
from dense_ctx.errors import ConfigError, InputError
from dense_ctx.images import resized
from dense_ctx.interfaces import DenseFeatures, FitContext, Probe, Size, Task, resample
from dense_ctx.model import DenseModel
from dense_ctx.numerics import require_finite


def output_of(model: DenseModel) -> Output:
    """The output description of a model with a trained head.

    Raises:
        ConfigError: the model has features only.
    """
    output = None if model.model_config is None else model.model_config.output
    if output is None:
        raise ConfigError(
            "The model has features but no trained head: give annotated examples (--support IMAGE:MASK, InContext), or "
            "train a head (dense-ctx train)"
        )
    if output.classes and model.dim < len(output.classes):
        raise ConfigError(f"The model's output has {len(output.classes)} classes, and its decoder {model.dim} channels")
    return output


@torch.inference_mode()
def read_head(model: DenseModel, images: Tensor) -> Tensor:
    """Probabilities or values, float32 [B, K, H, W], of images [B, 3, H, W] in [0, 1].

    As in training, they are resized to the training size; the output is resized to their size.

    Raises:
        ConfigError: the model has features only.
        NonFiniteError: the prediction holds NaN or infinity.
    """
    channels = head_channels(model, images)
    require_finite("The prediction of the head", "Check its weights, or use float32", values=channels)
    return meaning(channels, output_of(model), (images.shape[-2], images.shape[-1]))


def head_channels(model: DenseModel, images: Tensor) -> Tensor:
    """The decoder's channels, float32 [B, C, h, w], of images [B, 3, H, W]; both sizes are those of its training."""
    output = output_of(model)
    if output.image_size is not None:
        images = torch.stack([resized(image, output.image_size) for image in images])
    features, padded = model.encode(images)
    return model.decode(features, padded, (images.shape[-2], images.shape[-1]), output.size).float()


def meaning(channels: Tensor, output: Output, size: Size) -> Tensor:
    """A head's channels [B, C, h, w] as probabilities or values [B, K, *size]."""
    if output.task == "segmentation":
        channels = channels[:, : len(output.classes)]
    channels = resample(channels, size)
    if output.task == "segmentation":
        return channels.softmax(1)
    if output.task == "normals":
        return functional.normalize(channels, dim=1)
    return channels.sigmoid() if output.sigmoid else channels


class HeadProbe(Probe):
    """Use the model's channels as the prediction, for `dense-ctx evaluate`; it is not fitted.

    Args:
        task: see `dense_ctx.Probe`.
    """

    learns = False
    file_args: ClassVar[Mapping[str, Any] | None] = {}  # none

    def __init__(self, task: Task = "segmentation") -> None:
        super().__init__(task)
        self.classes = 0

    def configure(self, context: FitContext) -> None:
        """Set the number of classes."""
        super().configure(context)
        self.classes = len(context.classes)

    def partial_fit(self, features: DenseFeatures, targets: Tensor) -> HeadProbe:
        """Not supported.

        Raises:
            InputError: always.
        """
        raise InputError(
            "The probe head cannot be fitted to examples: it uses a trained head's output in `dense-ctx evaluate`. "
            "Choose another method"
        )

    def predict(self, features: DenseFeatures, size: Size | None = None) -> Tensor:
        """Softmax over the classes, or values: [B, K, *size]."""
        names = tuple(map(str, range(self.classes or features.pixels.shape[1])))
        output = Output("segmentation", names) if self.task == "segmentation" else Output("regression")
        return meaning(features.pixels.float(), output, size or (features.pixels.shape[-2], features.pixels.shape[-1]))

    def state_dict(self) -> dict[str, Tensor]:
        """Empty: there is no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to load."""
        return None
