"""Optical flow for the temporal measure: DIS, precomputed flow, and the forward-backward check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, Union

import numpy as np
import torch
from torch import Tensor

from dense_ctx.containment import optional_package
from dense_ctx.errors import InputError

from .similarity import sample

FlowFunction: TypeAlias = "Callable[[Tensor, Tensor], Tensor | np.ndarray[Any, Any]]"
FlowArray: TypeAlias = "Tensor | np.ndarray[Any, Any]"
PrecomputedFlow: TypeAlias = Union[FlowArray, "Mapping[int, FlowArray]"]


def dis_flow(first: Tensor, second: Tensor) -> Tensor:
    """Dense optical flow by DIS (Kroeger et al. 2016, arXiv 1603.03590; OpenCV's, medium preset).

    Args:
        first, second: [3, H, W] in [0, 1].

    Returns:
        float32 [2, H, W] of (x, y) in pixels: what is at x in `first` is at x + flow(x) in `second`.

    Raises:
        MissingDependencyError: OpenCV is not installed.
        InputError: OpenCV refuses the frames (too small).
    """
    cv2 = optional_package("cv2", "dis_flow (or pass a flow of your own)", "opencv-python-headless")
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    grey = [((f.float().cpu() * weights).sum(0).clamp(0, 1) * 255).round().byte().numpy() for f in (first, second)]
    try:
        flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(grey[0], grey[1], None)
    except cv2.error as error:
        raise InputError(f"OpenCV computes no flow for frames of {list(grey[0].shape)} pixels: {error}") from error
    return torch.from_numpy(np.ascontiguousarray(flow.transpose(2, 0, 1)))


class Flows:
    """Correspondences between frames, from a flow function or precomputed flow, with the forward-backward check.

    Args:
        flow, backward: as for `temporal_consistency`.
        gaps: distances in frames that will be used; a single array is for a single gap.
        threshold: in pixels, of |f(x) + b(x + f(x))|.
    """

    def __init__(
        self,
        flow: FlowFunction | PrecomputedFlow,
        backward: PrecomputedFlow | None,
        gaps: Sequence[int],
        threshold: float,
    ) -> None:
        self._threshold = threshold
        self._function = flow if callable(flow) else None
        self._forward = None if callable(flow) else _by_gap(flow, gaps, "flow")
        if self._function is not None and backward is not None:
            raise InputError("backward belongs to precomputed flow; a flow function is called in both directions")
        self._backward = None if backward is None else _by_gap(backward, gaps, "backward")

    def follow(self, xy: Tensor, first: Tensor, second: Tensor, pair: int, gap: int) -> tuple[Tensor, Tensor]:
        """Follow pixels from one frame to another.

        Args:
            xy: float64 [N, 2], pixels of `first`.
            first, second: frames [3, H, W].
            pair: index of the first frame. gap: distance to the second, in frames.

        Returns:
            Positions [N, 2] in `second`, and whether each is valid, bool [N]: its flow is not NaN, it lies between the
            centres of the frame's border pixels, and forward and backward flow agree.
        """
        height, width = first.shape[-2:]
        back: Tensor | None = None
        if self._function is not None:
            forward = _checked(self._function(first, second), (height, width), "flow(first, second)")
            back = _checked(self._function(second, first), (height, width), "flow(second, first)")
        else:
            forward = _one(self._forward, gap, pair, (height, width), "flow")
            if self._backward is not None:
                back = _one(self._backward, gap, pair, (height, width), "backward")
        step = sample(forward, xy).double().cpu()
        target = xy + step
        limit = torch.tensor([width - 1, height - 1], dtype=target.dtype)
        valid = ((target >= 0) & (target <= limit)).all(dim=1)  # NaN fails
        if back is not None:
            inside = torch.where(valid[:, None], target, xy)
            valid &= (step + sample(back, inside).double().cpu()).norm(dim=1) < self._threshold
        return target, valid


def _by_gap(flow: PrecomputedFlow, gaps: Sequence[int], name: str) -> Mapping[int, FlowArray]:
    if isinstance(flow, Mapping):
        missing = [gap for gap in gaps if gap not in flow]
        if missing:
            raise InputError(f"{name} has the gaps {sorted(flow)}, not all of {list(gaps)}: add {missing}")
        return flow
    if not isinstance(flow, (Tensor, np.ndarray)):
        raise InputError(f"{name} is a function, an array or a mapping from gap to array; got {type(flow).__name__}")
    if len(gaps) != 1:
        raise InputError(
            f"A single array of {name} is for a single gap; for gaps {list(gaps)} pass a mapping from gap to array"
        )
    return {gaps[0]: flow}


def _one(flows: Mapping[int, FlowArray] | None, gap: int, pair: int, size: tuple[int, int], name: str) -> Tensor:
    array = (flows or {})[gap]
    if array.ndim == 4:
        if pair >= len(array):
            raise InputError(f"{name} for gap {gap} holds {len(array)} pairs of frames; the clip has more")
        array = array[pair]
    return _checked(array, size, name)


def _checked(flow: FlowArray, size: tuple[int, int], name: str) -> Tensor:
    tensor = torch.as_tensor(flow)
    if tuple(tensor.shape) != (2, *size):
        raise InputError(f"{name} is {list(tensor.shape)}; expected [2, {size[0]}, {size[1]}] of (x, y) in pixels")
    if bool(tensor.isinf().any()):
        raise InputError(f"{name} holds infinity; unknown flow is NaN")
    return tensor.double()
