"""flow:sea-raft-s, -m and -l: ptlflow's SEA-RAFT, an optional package."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dense_ctx.containment import optional_package
from dense_ctx.errors import InputError, WeightsError

from .flow import FlowCue, pad_frames
from .weights import download, read_state

LEAST = 128
CHUNK = 16  # pairs at once


class SEARAFT(FlowCue):
    """SEA-RAFT (Wang et al. 2024, arXiv 2405.14793), the paper's flow, as ptlflow builds it (BSD-3-Clause).

    Args:
        size: "s", "m" or "l" (m with more updates).
        weights: "default" ("things": FlyingThings3D after TartanAir and FlyingChairs), another of ptlflow's names
            ("tartan", "chairs", "sintel", "kitti", "spring"), a file, or None (random).

    Raises:
        MissingDependencyError: ptlflow is not installed.
        WeightsError: the weights are unavailable, or do not match the network.
        InputError: another size, a name of weights that does not exist.
    """

    def __init__(self, size: str = "m", weights: str | None = "default") -> None:
        super().__init__()
        if size not in ("s", "m", "l"):
            raise InputError(f"size={size!r}: expected 's', 'm' or 'l'")
        name = f"flow:sea-raft-{size}"
        ptlflow = optional_package("ptlflow", f"cue {name!r}", '"dense-ctx[sea-raft]"')
        self.network = ptlflow.get_model(f"sea_raft_{size}")
        if weights is None:
            return
        choices = dict(type(self.network).pretrained_checkpoints)
        weights_name = "things" if weights == "default" else weights
        if weights_name in choices:
            self.source = f"ptlflow/sea_raft_{size}-{weights_name}"
            state = download(choices[weights_name], name)
        elif Path(weights_name).exists():
            self.source = weights_name
            state = read_state(Path(weights_name))
        else:
            raise InputError(f"weights={weights!r} is no file and none of {', '.join(['default', *sorted(choices)])}")
        try:
            self.network.load_state_dict(state)
        except RuntimeError as error:
            raise WeightsError(f"The weights {self.source} do not fit {name}: {error}") from error

    def flow(self, first: Tensor, second: Tensor) -> Tensor:
        """U of N pairs."""
        height, width = first.shape[-2:]
        parts = []
        for one, two in zip(first.split(CHUNK), second.split(CHUNK), strict=True):
            # the package reads images as OpenCV does, BGR; its own preprocessing turns them
            pair = torch.stack([pad_frames(frames.flip(1), 8, LEAST) for frames in (one, two)], dim=1)
            parts.append(self.network({"images": pair})["flows"][:, 0, :, :height, :width])
        return torch.cat(parts)
