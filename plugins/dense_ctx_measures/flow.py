"""Optical flow for the temporal measure: DIS, known flow, and the forward-backward check."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, Union

import numpy as np
import torch
from torch import Tensor

from dense_ctx.errors import InputError, MissingDependencyError

from .similarity import sample

FlowFunction: TypeAlias = "Callable[[Tensor, Tensor], Tensor | np.ndarray[Any, Any]]"
FlowArray: TypeAlias = "Tensor | np.ndarray[Any, Any]"
KnownFlow: TypeAlias = Union[FlowArray, "Mapping[int, FlowArray]"]


def dis_flow(first: Tensor, second: Tensor) -> Tensor:
    """Dense optical flow by DIS (Kroeger et al. 2016, arXiv 1603.03590; OpenCV's, medium preset).

    Args:
        first, second: [3, H, W] in [0, 1].

    Returns:
        float32 [2, H, W] of (x, y) in pixels: what is at x in `first` is at x + flow(x) in `second`.

    Raises:
        MissingDependencyError: OpenCV is not installed.
        InputError: OpenCV refuses the frames (a few pixels only).
    """
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError as error:
        raise MissingDependencyError(
            f"dis_flow needs OpenCV ({error}): pip install opencv-python-headless. Or pass a flow of your own"
        ) from error
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    grey = [((f.float().cpu() * weights).sum(0).clamp(0, 1) * 255).round().byte().numpy() for f in (first, second)]
    try:
        flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(grey[0], grey[1], None)
    except cv2.error as error:
        raise InputError(f"OpenCV finds no flow between frames of {list(grey[0].shape)} pixels: {error}") from error
    return torch.from_numpy(np.ascontiguousarray(flow.transpose(2, 0, 1)))


class Flows:
    """Where pixels go: by a function called both ways, or by known flow, checked backwards where that is known too.

    Args:
        flow, backward: as `temporal_consistency`.
        gaps: which are asked for; a bare array serves one only.
        threshold: in pixels, of |f(x) + b(x + f(x))|.
    """

    def __init__(
        self, flow: FlowFunction | KnownFlow, backward: KnownFlow | None, gaps: Sequence[int], threshold: float
    ) -> None:
        self._threshold = threshold
        self._function = flow if callable(flow) else None
        self._known = None if callable(flow) else _by_gap(flow, gaps, "flow")
        if self._function is not None and backward is not None:
            raise InputError("backward belongs to known flow; a flow function is called both ways")
        self._backward = None if backward is None else _by_gap(backward, gaps, "backward")

    def follow(self, xy: Tensor, first: Tensor, second: Tensor, pair: int, gap: int) -> tuple[Tensor, Tensor]:
        """Follow pixels from one frame to another.

        Args:
            xy: float64 [N, 2], pixels of `first`.
            first, second: frames [3, H, W]; `pair` is the index of the first, `gap` how far the second is.

        Returns:
            Positions [N, 2] in `second`, and which of them count, bool [N]: flow known, inside the frame (between the
            centres of its border pixels), forward and backward flow agree.
        """
        height, width = first.shape[-2:]
        back: Tensor | None = None
        if self._function is not None:
            forward = _checked(self._function(first, second), (height, width), "flow(first, second)")
            back = _checked(self._function(second, first), (height, width), "flow(second, first)")
        else:
            forward = _one(self._known, gap, pair, (height, width), "flow")
            if self._backward is not None:
                back = _one(self._backward, gap, pair, (height, width), "backward")
        step = sample(forward, xy).double().cpu()
        there = xy + step
        limit = torch.tensor([width - 1, height - 1], dtype=there.dtype)
        good = ((there >= 0) & (there <= limit)).all(dim=1)  # NaN fails
        if back is not None:
            there_or_here = torch.where(good[:, None], there, xy)
            good &= (step + sample(back, there_or_here).double().cpu()).norm(dim=1) < self._threshold
        return there, good


def _by_gap(flow: KnownFlow, gaps: Sequence[int], name: str) -> Mapping[int, FlowArray]:
    if isinstance(flow, Mapping):
        missing = [gap for gap in gaps if gap not in flow]
        if missing:
            raise InputError(f"{name} is known for gaps {sorted(flow)}, asked for {list(gaps)}: add {missing}")
        return flow
    if not isinstance(flow, (Tensor, np.ndarray)):
        raise InputError(f"{name} is a function, an array or a mapping from gap to array; got {type(flow).__name__}")
    if len(gaps) != 1:
        raise InputError(f"One array of {name} serves one gap; for gaps {list(gaps)} pass a mapping from gap to array")
    return {gaps[0]: flow}


def _one(known: Mapping[int, FlowArray] | None, gap: int, pair: int, size: tuple[int, int], name: str) -> Tensor:
    array = (known or {})[gap]
    if array.ndim == 4:
        if pair >= len(array):
            raise InputError(f"{name} for gap {gap} holds {len(array)} pairs of frames; the clip has more")
        array = array[pair]
    return _checked(array, size, name)


def _checked(flow: FlowArray, size: tuple[int, int], name: str) -> Tensor:
    tensor = torch.as_tensor(flow)
    if tuple(tensor.shape) != (2, *size):
        raise InputError(f"{name} is {list(tensor.shape)}; expected [2, {size[0]}, {size[1]}] of (x, y) in pixels")
    return tensor.double()
