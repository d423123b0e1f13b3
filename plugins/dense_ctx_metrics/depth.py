"""Depth: errors per image, averaged over images (Eigen et al., NeurIPS 2014)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from dense_ctx.errors import InputError
from dense_ctx.gateway import gateway
from dense_ctx.interfaces import Metric, Scores

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
        """Errors of a depth map; None if the target has no pixel between `low` and `high`.

        Args:
            prediction, target: [H, W] or [1, H, W] in metres; pixels whose target is NaN or outside low..high are not
                scored.
            low, high: predictions are clamped to this range, metres.
            align: what is fitted to each image before scoring, see `align_depth`.

        Raises:
            InputError: different shapes, or a prediction that is not finite.
        """
        prediction, target = prediction.squeeze(), target.squeeze()
        if prediction.shape != target.shape or target.ndim != 2:
            raise InputError(f"Depth maps are [H, W] of equal size; got {list(prediction.shape)}, {list(target.shape)}")
        valid = target.isfinite() & (target >= low) & (target <= high)
        if not bool(valid.any()):
            return None
        p, t = prediction[valid].double(), target[valid].double()
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


@gateway
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


class DepthMetric(Metric):
    """Means over images of each image's `DepthErrors`; images without a known depth in range are not counted.

    Args:
        classes: none.
        low, high: range that is scored, metres; predictions are clamped to it.
        align: what is fitted to each image before scoring, see `align_depth`.

    Raises:
        InputError: no such alignment, or not 0 < low < high.
    """

    target: ClassVar[str] = "depth"
    higher_is_better: ClassVar[Mapping[str, bool]] = {
        **dict.fromkeys(("rmse", "abs_rel", "log10", "silog"), False),
        **dict.fromkeys(("delta1", "delta2", "delta3"), True),
    }

    def __init__(
        self, classes: Sequence[str] = (), low: float = 0.001, high: float = 10.0, align: Alignment = "none"
    ) -> None:
        super().__init__(classes)
        if not 0 < low < high:
            raise InputError(f"low={low}, high={high}: expected metres, 0 < low < high")
        if align not in get_args(Alignment):
            raise InputError(f"align={align!r}; expected one of {', '.join(get_args(Alignment))}")
        self.low, self.high, self.align = low, high, align
        self.images = self.skipped = 0
        self.sums = dict.fromkeys(self.higher_is_better, 0.0)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add depth [1, H, W] in metres; pixels with a target of NaN are not scored."""
        errors = DepthErrors.of(prediction.cpu(), target.cpu(), low=self.low, high=self.high, align=self.align)
        if errors is None:
            self.skipped += 1
            return
        self.images += 1
        for key, value in errors.to_dict().items():
            self.sums[key] += value

    def state(self) -> Any:
        """{"images": scored, "skipped": without a depth in range, "sums": of each error over images}."""
        return {"images": self.images, "skipped": self.skipped, "sums": dict(self.sums)}

    def merge(self, state: Any) -> None:
        """Add the sums of another."""
        self.images += state["images"]
        self.skipped += state["skipped"]
        for key, value in state["sums"].items():
            self.sums[key] += value

    def compute(self) -> Scores:
        """The means over the images that have a depth in range."""
        if not self.images:
            raise InputError(f"No depth was scored: none of {self.skipped} images has a known depth in range")
        means = {key: value / self.images for key, value in self.sums.items()}
        return Scores(means, counts={"images": self.images, "images_without_depth": self.skipped})
