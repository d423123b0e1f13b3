"""Dense targets of the tasks, computed from annotations at the output size. Unknown pixels are NaN or -1."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from dense_ctx.errors import InputError


def check_instances(instances: Tensor, name: str) -> Tensor:
    """An instance map int64 [H, W]: -1 unknown, 0 background, 1.. instances.

    Raises:
        InputError: another shape or type, or ids below -1.
    """
    if instances.ndim != 2 or instances.is_floating_point() or not instances.numel():
        raise InputError(f"{name}: an instance map is integers [H, W]; got {instances.dtype} {list(instances.shape)}")
    if int(instances.min()) < -1:
        raise InputError(
            f"{name}: instance ids are 0 (background), 1, 2, ..., or -1 (unknown); found {int(instances.min())}"
        )
    return instances


def boundaries(instances: Tensor) -> Tensor:
    """1 on both sides of every edge between two instances or an instance and the background: float32 [1, H, W].

    Edges are between pixels that share a side; unknown pixels are NaN and make no edge. Without instances: zeros.
    """
    edges = torch.zeros_like(instances, dtype=torch.bool)
    for dim in (0, 1):
        length = instances.shape[dim]
        one, two = instances.narrow(dim, 0, length - 1), instances.narrow(dim, 1, length - 1)
        edge = (one != two) & (one >= 0) & (two >= 0)
        edges.narrow(dim, 0, length - 1).logical_or_(edge)
        edges.narrow(dim, 1, length - 1).logical_or_(edge)
    return torch.where(instances >= 0, edges.float(), torch.nan)[None]


def distances(instances: Tensor) -> Tensor:
    """Distance to the instance's outside, divided by the instance's largest: float32 [1, H, W].

    1 where an instance is deepest (everywhere in a one-pixel instance), 0 on the background, NaN where unknown. What
    lies beyond the image's border is outside.
    """
    values = instances.numpy()
    out = np.zeros(values.shape, dtype=np.float32)
    # find_objects walks 1..max: numbers with gaps (palette or global ids) are made dense first
    ids, dense = np.unique(np.maximum(values, 0), return_inverse=True)
    shift = int(ids[0] != 0)
    dense = dense.reshape(values.shape) + shift
    for number, box in enumerate(ndimage.find_objects(dense), start=1):
        if box is None:
            continue
        mask = dense[box] == number
        depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        out[box][mask] = (depth / depth.max())[mask]
    return torch.where(instances >= 0, torch.from_numpy(out), torch.nan)[None]


def check_labels(labels: Tensor, classes: int, name: str) -> Tensor:
    """A label map int64 [H, W] of 0..classes-1 or -1.

    Raises:
        InputError: another shape or type, or an id outside.
    """
    if labels.ndim != 2 or labels.is_floating_point():
        raise InputError(f"{name}: labels are integers [H, W]; got {labels.dtype} {list(labels.shape)}")
    bad = torch.unique(labels[(labels < -1) | (labels >= classes)])
    if len(bad):
        raise InputError(
            f"{name} has the label ids {bad[:5].tolist()}; expected 0 to {classes - 1}, or -1 for unknown pixels"
        )
    return labels


def check_values(values: Tensor, channels: int, name: str) -> Tensor:
    """Float32 [channels, H, W], NaN in all channels of a pixel where any of them is unknown or infinite.

    Raises:
        InputError: another shape or type.
    """
    if values.ndim != 3 or len(values) != channels or not values.is_floating_point():
        raise InputError(f"{name}: expected floats [{channels}, H, W]; got {values.dtype} {list(values.shape)}")
    return torch.where(values.isfinite().all(0), values.float(), torch.nan)


def check_depth(values: Tensor, name: str) -> Tensor:
    """As `check_values` of one channel; depth that is not above 0 is unknown."""
    depth = check_values(values, 1, name)
    return torch.where(depth > 0, depth, torch.nan)
