"""Ridge regression in closed form, differentiable (LILA, arXiv 2604.26488, eq. 2)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.gateway import gateway
from dense_ctx.numerics import Bias, IllConditioned, holds, require_finite, solve


@gateway
def ridge_fit(
    features: Tensor,
    targets: Tensor,
    penalty: float = 0.1,
    *,
    bias: Bias = "free",
    mean: bool = True,
    weights: Tensor | None = None,
) -> Tensor:
    """Ridge regression in closed form: W = argmin |X W - Y|^2 [/ N] + penalty |W|^2 (LILA, arXiv 2604.26488, eq. 2).

    Solved by Cholesky factorisation of the d x d system; differentiable in features and targets. For float32 input an
    ill-conditioned system is solved in float64 and the result cast back.

    Args:
        features: X, [..., N, d].
        targets: Y, [..., N, m].
        penalty: lambda, at least 0.
        bias: append a column of ones that is not penalised ("free"), one that is, as in FlowFeat ("penalized"), or
            none, as in eq. 2 ("none").
        mean: divide the data term by N (FlowFeat), or not (eq. 2).
        weights: [..., N], at least 0: weight of each row; `mean` then divides by their sum instead of N.

    Returns:
        [..., d, m], or [..., d + 1, m] with the bias last; for `ridge_apply`.

    Raises:
        InputError: shapes do not match, the penalty is negative, or the system is singular (penalty 0).
        NonFiniteError: NaN or infinity in what is given.
    """
    if features.ndim < 2 or features.shape[:-1] != targets.shape[:-1]:
        raise InputError(
            f"features [..., N, d] and targets [..., N, m] do not match: {list(features.shape)}, {list(targets.shape)}"
        )
    if not penalty >= 0:
        raise InputError(f"penalty={penalty} is not at least 0")
    try:
        solution = _ridge(features, targets, penalty, bias, mean, weights)
        ill = not holds(solution.detach().isfinite().all())
    except IllConditioned:
        ill = True
    if ill:
        require_finite("A ridge regression is given numbers that are not", features=features, targets=targets)
        wide = None if weights is None else weights.double()
        try:
            solution = _ridge(features.double(), targets.double(), penalty, bias, mean, wide)
        except IllConditioned:
            shape = f"features [N, d] = {list(features.shape[-2:])}"
            if penalty:
                reach = features.detach().abs().max().item()
                raise InputError(
                    f"The ridge system is singular in float64: {shape} reach {reach:.0e}; penalty={penalty} is lost "
                    "beside them. Scale the features, or centre them"
                ) from None
            raise InputError(
                f"The ridge system is singular at penalty={penalty}: {shape} are linearly dependent. Ask for a penalty "
                "above 0"
            ) from None
    return solution.to(features.dtype)


@gateway
def ridge_apply(features: Tensor, coefficients: Tensor) -> Tensor:
    """X W (+ bias): apply the result of `ridge_fit` to features [..., N, d]; returns [..., N, m]."""
    dims = features.shape[-1]
    if coefficients.shape[-2] == dims:
        return features @ coefficients
    if coefficients.shape[-2] != dims + 1:
        raise InputError(f"features and coefficients do not match: {list(features.shape)}, {list(coefficients.shape)}")
    return features @ coefficients[..., :-1, :] + coefficients[..., -1:, :]


def _ridge(x: Tensor, y: Tensor, penalty: float, bias: Bias, mean: bool, weights: Tensor | None) -> Tensor:
    if bias != "none":
        x = functional.pad(x, (0, 1), value=1.0)
    weighted = x if weights is None else x * weights[..., None]
    gram, cross = weighted.mT @ x, weighted.mT @ y
    if mean:
        total = x.shape[-2] if weights is None else weights.sum(-1)[..., None, None]
        gram, cross = gram / total, cross / total
    ridge = gram.new_full((gram.shape[-1],), penalty)
    if bias == "free":
        ridge[-1] = 0
    return solve(gram + ridge.diag(), cross)
