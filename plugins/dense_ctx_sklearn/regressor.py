"""PixelRegressor: in-context depth, normals or any values, with scikit-learn's interface."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dense_ctx.errors import InputError
from dense_ctx.gateway import gateway
from dense_ctx.incontext.targets import IgnoreIndex
from dense_ctx.interfaces import Task
from dense_ctx.model import DenseModel
from dense_ctx.model_spec import DEFAULT_METHOD

from .estimator import PixelEstimator
from .inputs import images_of, is_table, joined, maps_of, required, table_of, targets_of
from .package import base, metrics, validation


class PixelRegressor(base.RegressorMixin, PixelEstimator):  # type: ignore[misc]
    """Predicts a value for every pixel as examples show it, or values of features that were computed before.

    Args:
        model: a DenseModel, or how to open one ("efficientnet-lite0"): X holds images. None: X holds features, of
            `DenseTransformer` or any others.
        method: a registered probe, NAME or NAME(key=value, ...): the parameter to search over.
        max_memory: of a model: tile large images to stay within it. device: that it runs on.

    Attributes:
        context_: the fitted InContext of a model.
        n_features_in_, feature_names_in_: of features; names if a table has them.
    """

    _task: Task = "regression"

    def __init__(
        self,
        model: str | DenseModel | None = None,
        method: str = DEFAULT_METHOD,
        max_memory: str | int | None = None,
        device: str = "auto",
    ) -> None:
        self.model = model
        self.method = method
        self.max_memory = max_memory
        self.device = device

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @gateway
    def fit(self, X: Any, y: Any) -> PixelRegressor:
        """Learn from examples, forgetting earlier ones.

        Args:
            X: images or features, see `PixelEstimator.fit`.
            y: values of each pixel, floats [H, W] or [H, W, K], of an array or a list; NaN where nothing is known. For
                a table [n] or [n, K].
        """
        self._flat = True  # no axis of values
        if self.model is None and is_table(X):
            self._learn(X, y)
        else:
            required(y)
            examples = maps_of(X) if self.model is None else images_of(X)
            values = [_channels_first(target) for target in targets_of(y, len(examples))]
            self._flat = all(target.ndim == 2 for target in values)
            self._learn(X, values)
        return self

    def _table(self, X: Any, y: Any) -> tuple[Any, Any, IgnoreIndex]:
        table = table_of(self, X, reset=True)
        values = validation.check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        self._flat = values.ndim == 1 or values.shape[1] == 1
        if values.ndim == 2 and self._flat:
            values = validation.column_or_1d(values, warn=True)
        validation.check_consistent_length(table, values)
        return table, values.reshape(len(table), -1).astype(np.float32).T[:, :, None], "auto"

    @gateway
    def predict(self, X: Any) -> Any:
        """Values, float32; of a table float64, as scikit-learn's.

        Returns:
            [N, H, W] or, of targets with K values, [N, H, W, K] of an array of images or maps; a list of a list; [n] or
            [n, K] of a table.

        Raises:
            NotFittedError: before `fit`. InputError: of features, another number than in `fit`.
        """
        values = [item.movedim(0, -1).numpy() for item in self._scores(X)]
        if self._flat:
            values = [item[..., 0] for item in values]
        return values[0].astype(np.float64) if self.model is None and is_table(X) else joined(values, X)

    @gateway
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R2 over all pixels with a value, the mean over the values of a pixel.

        Raises:
            InputError: sample_weight for images or maps.
        """
        if self.model is None and is_table(X):
            return float(super().score(X, y, sample_weight))
        if sample_weight is not None:
            raise InputError("sample_weight is of the rows of a table; pixels that should not count are NaN")
        scores = self._scores(X)
        values = self._encoded([_channels_first(target) for target in targets_of(y, len(scores))], scores)
        masks = [target.isfinite().all(0) for target in values]
        pairs = [
            torch.cat([part[:, mask] for part, mask in zip(parts, masks, strict=True)], 1).T.numpy()
            for parts in (values, scores)
        ]
        return float(metrics.r2_score(*pairs))


def _channels_first(target: Any) -> Any:
    """Values [H, W], or [H, W, K] as [K, H, W]."""
    values = np.asarray(target)
    if values.dtype.kind not in "fiu" or values.ndim not in (2, 3):
        raise InputError(
            f"The targets of a PixelRegressor are floats [H, W] or [H, W, K]; got {values.dtype} {list(values.shape)}"
        )
    values = values.astype(np.float32)
    return values if values.ndim == 2 else np.ascontiguousarray(np.moveaxis(values, -1, 0))
