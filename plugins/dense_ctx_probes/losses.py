"""Losses of the trained probes on dense regression targets, NaN ignored."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError

Loss = Literal["mse", "l1", "cosine", "silog"]


def check_loss(loss: str) -> None:
    """Refuse a loss that does not exist."""
    if loss not in get_args(Loss):
        raise InputError(f"loss={loss!r}: expected one of {', '.join(get_args(Loss))}")


def regression_loss(prediction: Tensor, target: Tensor, loss: Loss) -> Tensor:
    """[B, K, H, W] twice -> [].

    mse, l1: mean over known values. cosine: 1 - cos of the angle between vectors over K (normals).
    silog: sqrt(mean d^2 - 0.85 mean(d)^2), d = ln p - ln t, of positive values (Eigen et al. 2014, with the weight that
    depth probes use).
    """
    valid = target.isfinite().all(1)
    p, t = prediction.movedim(1, -1)[valid], target.movedim(1, -1)[valid].float()
    if loss == "mse":
        return functional.mse_loss(p, t)
    if loss == "l1":
        return functional.l1_loss(p, t)
    if loss == "cosine":
        return 1 - functional.cosine_similarity(p, t, dim=-1).mean()
    d = p.clamp_min(1e-3).log() - t.clamp_min(1e-3).log()
    return (d.square().mean() - 0.85 * d.mean().square()).clamp_min(1e-8).sqrt()


def bin_centres(bins: int, low: float, high: float) -> Tensor:
    """Centres of `bins` equal intervals of low..high, [bins]."""
    edges = torch.linspace(low, high, bins + 1)
    return (edges[1:] + edges[:-1]) / 2
