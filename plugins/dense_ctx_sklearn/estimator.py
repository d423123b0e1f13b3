"""PixelEstimator: what the classifier and the regressor share."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from dense_ctx import InContext
from dense_ctx.config import parse_part
from dense_ctx.errors import InputError
from dense_ctx.gateway import gateway
from dense_ctx.incontext.targets import IgnoreIndex
from dense_ctx.interfaces import Task
from dense_ctx.model import DenseModel
from dense_ctx.model_spec import open_model

from .features import FeatureContext
from .inputs import images_of, is_table, maps_of, required, table_of, targets_of
from .package import NotFittedError, base


class PixelEstimator(base.BaseEstimator):  # type: ignore[misc]
    """See `PixelClassifier` and `PixelRegressor`."""

    _task: Task
    model: str | DenseModel | None
    method: str
    ignore_index: IgnoreIndex = "auto"
    max_memory: str | int | None
    device: str
    context_: InContext | FeatureContext

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = self.model is None
        tags.input_tags.three_d_array = True
        return tags

    def _learn(self, X: Any, y: Any) -> None:
        """Fit to images, to maps, or to a table, whose targets are encoded by the subclass."""
        method, model = parse_part(self.method), self.model
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)  # of an earlier fit to other input
        required(y)
        if model is not None:
            images = images_of(X)
            opened = model if isinstance(model, DenseModel) else open_model(model, self.device)
            context = InContext(opened, method.name, self._task, self.ignore_index, **method.args)
            self.context_ = context.fit(images, targets_of(y, len(images)), self.max_memory)
            return
        if self.max_memory is not None or self.device != "auto":
            raise InputError("max_memory and device would have no effect without a model: leave them out")
        if is_table(X):
            table, target, ignored = self._table(X, y)
            self.context_ = FeatureContext(method, self._task, ignored).fit([table], [target])
            return
        maps = maps_of(X)
        self.n_features_in_ = maps[0].shape[2]
        self.context_ = FeatureContext(method, self._task, self.ignore_index).fit(maps, targets_of(y, len(maps)))

    def _table(self, X: Any, y: Any) -> tuple[Any, Any, IgnoreIndex]:
        """Rows of features [n, D], their targets as those of an image of one column, and what they say of none."""
        raise NotImplementedError

    def _scores(self, X: Any) -> list[Tensor]:
        """Scores [K, h, w] of each image or map; of a table alone [K, n]."""
        context = getattr(self, "context_", None)
        if context is None:
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet: call fit(X, y) first")
        if isinstance(context, InContext):
            read = context.predict_proba if self._task == "segmentation" else context.predict
            return [torch.as_tensor(read(image, self.max_memory)) for image in images_of(X)]
        if is_table(X):
            return [context.scores(table_of(self, X, reset=False))]
        maps = maps_of(X)
        if maps[0].shape[2] != self.n_features_in_:
            raise InputError(
                f"X has {maps[0].shape[2]} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features"
            )
        return [context.scores(features) for features in maps]

    def _encoded(self, y: Any, scores: list[Tensor]) -> list[Tensor]:
        """Targets of images or maps as those of the fit are read: class indices, -1 ignored, or values, NaN ignored."""
        reader = copy.deepcopy(self.context_.targets_)  # a new class is wrong everywhere, and stays unknown
        if reader.binary is None:
            reader.binary = False  # where 255 was no foreground in the fit, black and white masks are refused
        sizes = [(item.shape[-2], item.shape[-1]) for item in scores]
        return [reader.read(target, size)[0] for target, size in zip(targets_of(y, len(scores)), sizes, strict=True)]

    @gateway
    def fit(self, X: Any, y: Any) -> Any:
        """Learn from examples, forgetting earlier ones.

        Args:
            X: images, if a model is set: a list (paths, PIL, arrays; any sizes) or an array [N, H, W, 3]. Without a
                model features: an array [N, h, w, D], a list of [h, w, D], or a table [n, D].
            y: a target for each image or map, of its height and width; for a table n targets.

        Raises:
            InputError, FileError: as `dense_ctx.InContext.fit`.
        """
        self._learn(X, y)
        return self
