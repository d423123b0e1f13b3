"""DenseTransformer: images to features, a step of a scikit-learn pipeline."""

from __future__ import annotations

from typing import Any, Literal

import torch

from dense_ctx.errors import InputError, refuse_idle
from dense_ctx.gateway import gateway
from dense_ctx.images import load
from dense_ctx.interfaces import Size
from dense_ctx.model import DenseModel
from dense_ctx.model_spec import DEFAULT_MODEL, open_model
from dense_ctx.numerics import require_finite

from .inputs import images_of, joined
from .package import NotFittedError, base

Level = Literal["pixels", "patches"]


class DenseTransformer(base.ClassNamePrefixFeaturesOutMixin, base.TransformerMixin, base.BaseEstimator):  # type: ignore[misc]
    """The features of a model for every pixel, or one vector for each image.

    Args:
        model: a DenseModel, or how to open one ("efficientnet-lite0").
        level: "pixels" (the decoder's features) or "patches" (the encoder's deepest map).
        size: (h, w) of the pixel features' grid; None: each image's own size.
        pool: the mean of the map: one row of features for each image, for any estimator of scikit-learn.
        max_memory: tile large images to stay within it. device: that the model runs on.

    Attributes: model_: the DenseModel.
    """

    def __init__(
        self,
        model: str | DenseModel = DEFAULT_MODEL,
        level: Level = "pixels",
        size: Size | None = None,
        pool: bool = False,
        max_memory: str | int | None = None,
        device: str = "auto",
    ) -> None:
        self.model = model
        self.level = level
        self.size = size
        self.pool = pool
        self.max_memory = max_memory
        self.device = device

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags

    @gateway
    def fit(self, X: Any, y: Any = None) -> DenseTransformer:
        """Open the model; nothing is learnt from X, a list of images or an array [N, H, W, 3], which is checked.

        Raises:
            InputError, ConfigError: what cannot be read, a parameter that is none of these, or has no effect.
        """
        images_of(X)
        if self.level not in ("pixels", "patches"):
            raise InputError(f"level={self.level!r:.40}: expected 'pixels' or 'patches'")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise InputError(f"size={self.size!r:.60} is (h, w), each at least 1")
        refuse_idle([(self.level == "patches" and self.size is not None, "size", "on patches, which have their own")])
        self.model_ = self.model if isinstance(self.model, DenseModel) else open_model(self.model, self.device)
        return self

    @gateway
    def transform(self, X: Any) -> Any:
        """The features of images, float32.

        Returns:
            [N, h, w, D] of an array of images, a list of [h, w, D] of a list; with `pool` [N, D].

        Raises:
            NotFittedError: before `fit`. InputError, FileError: an image that cannot be read.
        """
        if getattr(self, "model_", None) is None:
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet: call fit(X) first")
        results = [self._features(image) for image in images_of(X)]
        if self.pool:
            return torch.stack(results).numpy()
        return joined([item.numpy() for item in results], X)

    @torch.inference_mode()
    def _features(self, image: Any) -> Any:
        """[h, w, D], or [D] with `pool`."""
        features = self.model_(load(image)[None], size=self.size, max_memory=self.max_memory)
        maps = features.pixels if self.level == "pixels" else features.patches
        require_finite("The features", "Use float32, or another model", features=maps)
        last = maps[0].float().movedim(0, -1).cpu()
        return last.mean((0, 1)) if self.pool else last.contiguous()

    @property
    def _n_features_out(self) -> int:
        """Of `get_feature_names_out`: densetransformer0, densetransformer1, ..."""
        return int(self.model_.dim if self.level == "pixels" else self.model_.backbone.dims[-1])
