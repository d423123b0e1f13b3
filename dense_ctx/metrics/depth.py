"""Depth: errors per image, averaged over images (Eigen et al., NeurIPS 2014)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError

Alignment = Literal["none", "median", "scale_shift"]


@dataclass(frozen=True)
class DepthErrors:
    """Errors of one image over its known pixels.

    rmse: root mean squared error, metres. abs_rel: mean |p - t| / t. log10: mean |log10 p - log10 t|.
    silog: sqrt(mean d^2 - (mean d)^2) with d = ln p - ln t: free of a common factor.
    delta1..3: share of pixels with max(p / t, t / p) below 1.25, 1.25^2, 1.25^3.
    """

    rmse: float
    abs_rel: float
    log10: float
    silog: float
    delta1: float
    delta2: float
    delta3: float

    @classmethod
    def of(
        cls,
        prediction: Tensor,
        target: Tensor,
        *,
        low: float = 1e-3,
        high: float = 10.0,
        align: Alignment = "none",
    ) -> DepthErrors | None:
        """Errors of a depth map, or None where the target knows no pixel between `low` and `high`.

        Args:
            prediction, target: [H, W] or [1, H, W] in metres; NaN and values outside low..high in the target are
                left out.
            low, high: predictions are clamped to this range, metres.
            align: what is fitted to each image before scoring, see `align_depth`.

        Raises:
            InputError: different shapes, or a prediction that is not finite.
        """
        prediction, target = prediction.squeeze(), target.squeeze()
        if prediction.shape != target.shape or target.ndim != 2:
            raise InputError(f"Depth maps are [H, W] alike; got {list(prediction.shape)} and {list(target.shape)}")
        known = target.isfinite() & (target >= low) & (target <= high)
        if not bool(known.any()):
            return None
        p, t = prediction[known].double(), target[known].double()
        if not bool(p.isfinite().all()):
            raise InputError("The predicted depth holds NaN or infinity")
        p = align_depth(p, t, align).clamp(low, high)
        log = p.log() - t.log()
        ratio = torch.maximum(p / t, t / p)
        return cls(
            rmse=float((p - t).square().mean().sqrt()),
            abs_rel=float(((p - t).abs() / t).mean()),
            log10=float((p.log10() - t.log10()).abs().mean()),
            silog=float((log.square().mean() - log.mean().square()).clamp_min(0).sqrt()),
            delta1=float((ratio < 1.25).double().mean()),
            delta2=float((ratio < 1.25**2).double().mean()),
            delta3=float((ratio < 1.25**3).double().mean()),
        )

    def to_dict(self) -> dict[str, float]:
        """Name to value."""
        return asdict(self)


def align_depth(prediction: Tensor, target: Tensor, align: Alignment = "median") -> Tensor:
    """Fit predicted to true depths [N] before scoring.

    "median": times median(target) / median(prediction). "scale_shift": the least-squares a p + b.
    "none": as they are.

    Raises:
        InputError: an unknown alignment, or a prediction of one value where a scale is fitted.
    """
    if align == "none":
        return prediction
    if align == "median":
        middle = _median(prediction)
        if not float(middle) > 0:
            raise InputError(f"align='median' needs predictions above 0; their median is {float(middle):.3g}")
        return prediction * (_median(target) / middle)
    if align == "scale_shift":
        centred = prediction - prediction.mean()
        spread = centred.square().sum()
        if not float(spread) > 0:
            raise InputError("align='scale_shift' needs a prediction that varies; it has one value everywhere")
        return target.mean() + centred * ((centred * (target - target.mean())).sum() / spread)
    raise InputError(f"align={align!r}: expected 'none', 'median' or 'scale_shift'")


def _median(values: Tensor) -> Tensor:
    """NumPy's median; torch's own is the lower of the two in the middle."""
    return (values.median() - (-values).median()) / 2
