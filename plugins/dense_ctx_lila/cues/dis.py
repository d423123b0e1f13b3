"""flow:dis: optical flow without weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dense_ctx.containment import optional_package
from dense_ctx.errors import InputError

from .flow import FlowCue, pad_frames

LEAST = 32  # OpenCV refuses frames of fewer pixels than its coarsest patches
PRESETS = ("ultrafast", "fast", "medium")


class DIS(FlowCue):
    """Dense inverse search (Kroeger et al. 2016, arXiv 1603.03590), OpenCV's, on the grey frames, on the CPU.

    Args:
        preset: "medium" (the default), "fast" or "ultrafast".
        finest: the scale at which the search ends, halvings of the frame; 0 is the frame itself. Default: the preset's
            (1 for medium), about three times quicker than 0.

    Raises:
        MissingDependencyError: OpenCV is not installed.
        InputError: another preset, or a finest scale below 0.
    """

    def __init__(self, preset: str = "medium", finest: int | None = None) -> None:
        super().__init__()
        if preset not in PRESETS:
            raise InputError(f"preset={preset!r}: expected one of {', '.join(PRESETS)}")
        if finest is not None and (not isinstance(finest, int) or finest < 0):
            raise InputError(f"finest={finest!r}: expected a whole number from 0 up")
        self.preset, self.finest = preset, finest
        _opencv()

    def flow(self, first: Tensor, second: Tensor) -> Tensor:
        """U of N pairs; OpenCV takes one at a time, on all its threads."""
        cv2 = _opencv()
        search = cv2.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{self.preset.upper()}"))
        if self.finest is not None:
            search.setFinestScale(self.finest)
        height, width = first.shape[-2:]
        pairs = zip(_grey(first), _grey(second), strict=True)
        flows = np.stack([search.calc(one, two, None)[:height, :width].transpose(2, 0, 1) for one, two in pairs])
        return torch.from_numpy(flows).to(first.device)


def _opencv() -> Any:
    return optional_package("cv2", "cue 'flow:dis'", '"dense-ctx[flow]"')


def _grey(frames: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    grey = (pad_frames(frames.float().cpu(), 1, LEAST) * weights).sum(1).clamp(0, 1)
    return (grey * 255).round().byte().numpy()
