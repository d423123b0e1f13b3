"""LILA's regression: fitted from the features of a frame to its cues, applied to another frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from einops import rearrange
from torch import Tensor

from dense_ctx.errors import ConfigError, InputError, NonFiniteError
from dense_ctx.numerics import Bias

from .products import Products
from .ridge import ridge_fit


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
    products: of what is predicted for the query, and of the maps that it is compared with: "float32", "tf32" or
        "bf16x3" (`products.multiply`). The fit itself is float32. None: bf16x3 where the networks run in half precision
        on a GPU, and otherwise float32.
    """

    penalty: float = 0.1
    relative: bool = True
    bias: Bias = "free"
    mean: bool = True
    stride: int = 7
    products: Products | None = None

    def __post_init__(self) -> None:
        if not self.penalty > 0 or self.stride < 1:
            raise ConfigError(f"penalty={self.penalty}, stride={self.stride}: expected above 0 and at least 1")
        if self.products not in (None, *get_args(Products)):
            raise ConfigError(f"products={self.products!r}: expected one of {', '.join(get_args(Products))}, or null")

    def fit(self, context: Tensor, cues: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients [B, D, K] and bias [B, K], 0 where there is none.

        Args:
            context: features [B, D, h, w].
            cues: the maps of `stride`'s pixels, [B, h', w', K].

        Raises:
            NonFiniteError: features are not finite, or the training has diverged: they are so large, or all so alike,
                that not even float64 can solve for coefficients.
        """
        offset = self.stride // 2
        rows = rearrange(context[:, :, offset :: self.stride, offset :: self.stride], "b d h w -> b (h w) d")
        scale = None
        if self.relative:
            variance = rows.var(1, correction=0).mean(1)
            variance = variance + 0 * variance  # infinity, which would make coefficients of 0, becomes NaN: refused
            scale = variance.clamp_min(1e-12).rsqrt()[:, None, None]
            rows = rows * scale
        try:
            weights = ridge_fit(rows, cues.flatten(1, 2), self.penalty, bias=self.bias, mean=self.mean)
        except InputError as error:
            largest, spread = float(context.detach().abs().max()), float(context.detach().std((2, 3)).max())
            raise NonFiniteError(
                f"LILA's regression has no solution in float64: the features of the context reach {largest:.0e} and "
                f"vary over its pixels by {spread:.0e} at most"
            ) from error
        coefficients, bias = weights.split([rows.shape[-1], weights.shape[1] - rows.shape[-1]], 1)
        return coefficients if scale is None else coefficients * scale, bias.sum(1)
