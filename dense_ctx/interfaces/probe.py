"""Probe: features and labels to predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from .features import DenseFeatures, Reads, Size, Task

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class FitContext:
    """What an evaluation tells a probe before its first batch.

    classes: names, in the order of their ids; () where the targets are values.
    unseen: classes of which the probe gets no label (zero-shot).
    reads: the features to read. A probe that is trained by steps gets all maps and reads these; any other finds them in
        `DenseFeatures.pixels`: the decoder's, the encoder's, or both concatenated.
    steps: gradient steps, each one call of `partial_fit`; None: no training by steps.
    seed: of the probe's randomness, unless its own arguments set one.
    """

    classes: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    reads: Reads = "pixels"
    steps: int | None = None
    seed: int = 0


class Probe(ABC):
    """Reads predictions out of features, with scikit-learn's verbs; fitted state ends in "_".

    Predictions are where the features are, which may change from call to call; targets may be anywhere. A state is on
    the CPU, wherever it was made.

    Args:
        task: "segmentation" (targets [B, H, W] int64 class indices, -1 is ignored) or
            "regression" (targets [B, K, H, W] float, NaN is ignored).
        seed: of its randomness; None: the evaluation's, else 0.
    """

    # True: `partial_fit` takes targets at the image's own size, whatever the grid of the pixel features
    pixel_targets: ClassVar[bool] = False
    file_args: ClassVar[Mapping[str, Any] | None] = None  # as Backbone's
    learns: ClassVar[bool] = True  # False: it predicts without `partial_fit`, which is not called

    def __init__(self, task: Task = "segmentation", seed: int | None = None) -> None:
        self.task = task
        self.seed = 0 if seed is None else seed
        self._own_seed = seed is not None

    def configure(self, context: FitContext) -> None:
        """Take an evaluation's context, before the first `partial_fit` and any other work.

        The default takes the seed, which suits a closed-form probe.

        Raises:
            ConfigError: the probe does not support the context: training by steps, unseen classes; or it lacks
                something (text embeddings).
        """
        name = type(self).__name__
        if context.steps is not None:
            raise ConfigError(
                f"{name} is not trained by steps: leave `train` out of the protocol (train=null), or name a probe that "
                "is, such as conv"
            )
        if context.unseen:
            raise ConfigError(f"{name} cannot predict classes without labels; use a zero-shot probe")
        if not self._own_seed:
            self.seed = context.seed

    @abstractmethod
    def partial_fit(self, features: DenseFeatures, targets: Tensor) -> Self:
        """Learn from B more images, in addition to earlier ones. New classes may appear in any call."""

    @abstractmethod
    def predict(self, features: DenseFeatures, size: Size | None = None) -> Tensor:
        """Predict [B, K, *size]: class probabilities (sum 1 over K) or values. size: default the pixels'."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """The fitted state as tensors, for safetensors."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a fitted state.

        Raises:
            CheckpointError: not a state of this probe: a tensor is missing, left over, or of another shape or dtype.
        """

    def outputs(self, pixels: int, patches: int) -> int:
        """Number of predicted channels for features with these channels; the default predicts random features, 2 x 2.

        Raises:
            CheckpointError: the state was fitted on features with other channels.
        """
        generator = torch.Generator().manual_seed(0)
        maps = [torch.randn(1, width, 2, 2, generator=generator) for width in (pixels, patches)]
        try:
            return self.predict(DenseFeatures(maps[0], maps[1], None)).shape[1]
        except Exception as error:  # whatever tensors of other shapes lead to
            name = f"{type(self).__name__} is not fitted on features of {pixels} and {patches} channels"
            raise CheckpointError(f"{name} (pixels, patches): {error}") from error
