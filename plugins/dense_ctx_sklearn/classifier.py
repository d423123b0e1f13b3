"""PixelClassifier: in-context segmentation with scikit-learn's interface."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from dense_ctx.errors import InputError
from dense_ctx.gateway import gateway
from dense_ctx.images import load_mask
from dense_ctx.incontext.targets import IgnoreIndex
from dense_ctx.interfaces import Task
from dense_ctx.model import DenseModel
from dense_ctx.model_spec import DEFAULT_METHOD

from .estimator import PixelEstimator
from .inputs import is_table, joined, required, table_of, targets_of
from .package import base, multiclass, validation


class PixelClassifier(base.ClassifierMixin, PixelEstimator):  # type: ignore[misc]
    """Segments images as annotated ones show it, or classifies features that were computed before.

    Args:
        model: a DenseModel, or how to open one ("efficientnet-lite0"): X holds images. None: X holds features, of
            `DenseTransformer` or any others.
        method: a registered probe, NAME or NAME(key=value, ...): the parameter to search over.
        ignore_index: the mask value that means "not annotated", see `dense_ctx.InContext`; in a table, where "auto"
            means that there is none, of whole-numbered labels.
        max_memory: of a model: tile large images to stay within it. device: that it runs on.

    Attributes:
        classes_: sorted labels, in the order of the probabilities. context_: the fitted InContext of a model.
        n_features_in_, feature_names_in_: of features; names if a table has them.
    """

    _task: Task = "segmentation"

    def __init__(
        self,
        model: str | DenseModel | None = None,
        method: str = DEFAULT_METHOD,
        ignore_index: IgnoreIndex = "auto",
        max_memory: str | int | None = None,
        device: str = "auto",
    ) -> None:
        self.model = model
        self.method = method
        self.ignore_index = ignore_index
        self.max_memory = max_memory
        self.device = device

    @gateway
    def fit(self, X: Any, y: Any) -> PixelClassifier:
        """Learn from examples, forgetting earlier ones.

        Args:
            X: images or features, see `PixelEstimator.fit`.
            y: masks, integers [H, W], of an array [N, H, W] or a list (paths too); for a table n labels of any type.
        """
        self._labels: Any = None
        self._learn(X, y)
        classes = np.array(self.context_.targets_.classes)
        self._order = np.argsort(classes)
        self.classes_ = classes[self._order] if self._labels is None else self._labels[classes[self._order]]
        return self

    def _table(self, X: Any, y: Any) -> tuple[Any, Any, IgnoreIndex]:
        table = table_of(self, X, reset=True)
        labels = validation.column_or_1d(y, warn=True)
        validation.check_consistent_length(table, labels)
        validation.assert_all_finite(labels, input_name="y")
        multiclass.check_classification_targets(labels)
        self._labels = np.unique(labels)
        return table, self._codes(labels)[:, None], -1

    def _codes(self, labels: Any) -> Any:
        """The places of labels among those of a table: -1 ignored, K one that it has not."""
        places = np.searchsorted(self._labels, labels).clip(0, len(self._labels) - 1)
        codes = np.where(self._labels[places] == labels, places, len(self._labels))
        return np.where(self._ignored(labels), -1, codes).astype(np.int64)

    def _ignored(self, labels: Any) -> Any:
        if self.ignore_index in ("auto", None):  # of a table each row has a label
            return np.zeros(np.shape(labels), dtype=bool)
        return np.asarray(labels) == self.ignore_index

    @gateway
    def predict_proba(self, X: Any) -> Any:
        """Class probabilities in the order of `classes_`, float32.

        Returns:
            [N, H, W, K] of an array of images or maps, a list of [H, W, K] of a list, [n, K] of a table.

        Raises:
            NotFittedError: before `fit`. InputError: of features, another number than in `fit`.
        """
        scores = [item[self._order].movedim(0, -1).numpy() for item in self._scores(X)]
        return scores[0] if self.model is None and is_table(X) else joined(scores, X)

    @gateway
    def predict(self, X: Any) -> Any:
        """Labels: int64 [N, H, W], a list of [H, W], or [n] of the labels' type. Raises as `predict_proba`."""
        scores = self.predict_proba(X)
        if isinstance(scores, list):
            return [self.classes_[item.argmax(-1)] for item in scores]
        return self.classes_[scores.argmax(-1)]

    @gateway
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy: the share of annotated pixels, or of the rows of a table, that are predicted right.

        Raises:
            InputError: sample_weight for images or maps; a table whose rows are all ignored.
        """
        if self.model is None and is_table(X):
            valid = ~self._ignored(required(y))
            if not valid.any():
                raise InputError(f"Every row has the label {self.ignore_index}, which is ignored: there is no score")
            if not valid.all():
                sample_weight = np.where(valid, 1.0 if sample_weight is None else sample_weight, 0.0)
            return float(super().score(X, y, sample_weight))
        if sample_weight is not None:
            raise InputError("sample_weight is of the rows of a table; pixels that should not count are ignore_index")
        scores = self._scores(X)
        if getattr(self, "_labels", None) is not None:  # fitted to a table, whose labels may be of any type
            masks = (
                load_mask(one).numpy() if isinstance(one, (str, os.PathLike)) else one
                for one in targets_of(y, len(scores))
            )
            y = [self._codes(np.asarray(mask)) for mask in masks]
        right = total = 0
        for prediction, target in zip(scores, self._encoded(y, scores), strict=True):
            right += int((prediction.argmax(0) == target).sum())
            total += int((target >= 0).sum())
        return right / total
