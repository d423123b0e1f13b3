"""LILA's regression: fitted from the features of a frame to its cues, applied to another frame."""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
from torch import Tensor

from dense_ctx.errors import ConfigError
from dense_ctx.numerics import Bias

from .ridge import ridge_apply, ridge_fit


@dataclass(frozen=True)
class Regression:
    """Ridge regression of cues on features.

    penalty: lambda, on the Gram matrix (divided by the number of pixels where `mean`).
    relative: penalty in units of the context features' mean variance. Without it the
        decoder can reduce the loss by shrinking feature variance around a constant that the bias absorbs: regressions
        still generalise, but cosines become useless.
    bias: "free" (a column of ones that is not penalised, ours), "penalized" (FlowFeat) or "none" (eq. 2).
    mean: the squared errors are divided by the number of pixels, as in FlowFeat, or not, as eq. 2 is written.
    stride: every stride-th pixel of the context enters.
    """

    penalty: float = 0.1
    relative: bool = True
    bias: Bias = "free"
    mean: bool = True
    stride: int = 7

    def __post_init__(self) -> None:
        if not self.penalty > 0 or self.stride < 1:
            raise ConfigError(f"penalty={self.penalty}, stride={self.stride}: expected above 0 and at least 1")

    def predict(self, context: Tensor, query: Tensor, maps: Tensor) -> Tensor:
        """Predict the query's maps [B, K, h, w].

        Args:
            context, query: features [B, D, h, w].
            maps: of the context, [B, K, h, w].
        """
        rows, targets = self._pixels(context), self._pixels(maps)
        pixels = rearrange(query, "b d h w -> b (h w) d")
        if self.relative:
            scale = rows.var(1, correction=0).mean(1).clamp_min(1e-12).rsqrt()[:, None, None]
            rows, pixels = rows * scale, pixels * scale
        weights = ridge_fit(rows, targets, self.penalty, bias=self.bias, mean=self.mean)
        return rearrange(ridge_apply(pixels, weights), "b (h w) k -> b k h w", h=query.shape[-2])

    def _pixels(self, maps: Tensor) -> Tensor:
        offset = self.stride // 2
        return rearrange(maps[:, :, offset :: self.stride, offset :: self.stride], "b c h w -> b (h w) c")
