"""flow:raft-small and flow:raft-large: torchvision's RAFT."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dense_ctx.errors import InputError, WeightsError

from .flow import FlowCue, pad_frames
from .weights import download, read_state

LEAST = 128  # RAFT's correlation pyramid halves the 1/8 grid three times and wants 2 x 2 cells at the end
CHUNK = 16  # pairs at once: the correlation of all pairs of positions is (H W / 64)^2 numbers a pair


class RAFT(FlowCue):
    """RAFT (Teed and Deng 2020, arXiv 2003.12039), torchvision's models and weights (BSD-3-Clause).

    Frames are padded to multiples of 8 and at least 128 pixels, and normalised to [-1, 1].

    Args:
        size: "small" (1.0 M parameters) or "large" (5.3 M).
        weights: "default", one of torchvision's names ("C_T_V2", "C_T_SKHT_V2" ...), a file, or None (random).
        iterations: updates of the flow.

    Raises:
        WeightsError: the weights are unavailable (no network, and not in torch's cache), or do not match.
        InputError: another size, a name of weights that does not exist, no iterations.
    """

    def __init__(self, size: str = "large", weights: str | None = "default", iterations: int = 12) -> None:
        super().__init__()
        from torchvision.models import optical_flow

        if size not in ("small", "large"):
            raise InputError(f"size={size!r}: expected 'small' or 'large'")
        if not isinstance(iterations, int) or iterations < 1:
            raise InputError(f"iterations={iterations!r}: expected a whole number from 1 up")
        self.iterations = iterations
        build = optical_flow.raft_small if size == "small" else optical_flow.raft_large
        self.network = build(weights=None)
        if weights is None:
            return
        choices = optical_flow.Raft_Small_Weights if size == "small" else optical_flow.Raft_Large_Weights
        names = sorted(choices.__members__)
        if weights.upper() in names:
            entry = choices[weights.upper()]
            self.source = f"torchvision/{entry}"
            state = download(entry.url, f"flow:raft-{size}")
        elif Path(weights).exists():
            self.source = weights
            state = read_state(Path(weights))
        else:
            raise InputError(f"weights={weights!r} is no file and none of {', '.join(['default', *names])}")
        try:
            self.network.load_state_dict(state)
        except RuntimeError as error:
            raise WeightsError(f"The weights {self.source} do not fit flow:raft-{size}: {error}") from error

    def flow(self, first: Tensor, second: Tensor) -> Tensor:
        """U of N pairs."""
        height, width = first.shape[-2:]
        parts = []
        for one, two in zip(first.split(CHUNK), second.split(CHUNK), strict=True):
            one, two = (pad_frames(frames, 8, LEAST) * 2 - 1 for frames in (one, two))
            parts.append(self.network(one, two, num_flow_updates=self.iterations)[-1][..., :height, :width])
        return torch.cat(parts)
