"""FeatureContext: what InContext is over images, over feature maps that were computed before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from dense_ctx.config import Part
from dense_ctx.errors import InputError
from dense_ctx.incontext.targets import IgnoreIndex, TargetReader
from dense_ctx.interfaces import DenseFeatures, Probe, Task
from dense_ctx.numerics import require_finite
from dense_ctx.plugins import blamed, registry

FeatureArray = np.ndarray[Any, np.dtype[np.float32]]


class FeatureContext:
    """Fits a probe to feature maps and their targets.

    Args:
        method: a registered probe. task, ignore_index: as for `dense_ctx.InContext`.

    Attributes: targets_: the reader of targets, with classes and channels.
    """

    def __init__(self, method: Part, task: Task, ignore_index: IgnoreIndex) -> None:
        self.method = method
        self.targets_ = TargetReader(task, ignore_index)
        self._probe = cast(Probe, registry().create("probe", method.name, task=task, **method.args))

    @torch.inference_mode()
    def fit(self, features: Sequence[FeatureArray], targets: Sequence[Any]) -> FeatureContext:
        """Learn from maps float32 [h, w, D], a target for each of its height and width.

        A table [n, D] is n maps of one pixel: its rows have no neighbours. Its target is that of a column of pixels,
        [n, 1] or [K, n, 1].

        Raises:
            InputError: as `InContext.fit`.
        """
        for part, target in zip(features, targets, strict=True):
            encoded = self.targets_.read(target, (part.shape[0], part.shape[1] if part.ndim == 3 else 1))
            with blamed("probe", self.method.name):
                self._probe.partial_fit(_dense(part), encoded if part.ndim == 3 else encoded.transpose(0, -2))
        self.targets_.require_two_classes()
        return self

    @torch.inference_mode()
    def scores(self, features: FeatureArray) -> Tensor:
        """Probabilities in the order of `targets_.classes`, or values: float32 [K, h, w], or [K, n] of a table."""
        with blamed("probe", self.method.name):
            scores = self._probe.predict(_dense(features))
        if self.targets_.task == "segmentation" and scores.shape[1] != len(self.targets_.classes):
            raise InputError(
                f"The probe {self.method.name!r} predicts {scores.shape[1]} classes, and the targets hold "
                f"{len(self.targets_.classes)}: limit its classes to theirs"
            )
        require_finite(f"The prediction of the probe {self.method.name!r}", "Fit it again", values=scores)
        return scores[0].float() if features.ndim == 3 else scores[:, :, 0, 0].T.float()


def _dense(features: FeatureArray) -> DenseFeatures:
    tensor = torch.from_numpy(np.ascontiguousarray(features))
    pixels = tensor.movedim(-1, 0)[None] if features.ndim == 3 else tensor[:, :, None, None]
    return DenseFeatures(pixels, pixels)
