"""Depth and normals in files: 16-bit pictures and .npy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dense_ctx.errors import InputError
from dense_ctx.files import read_array

if TYPE_CHECKING:
    from torch import Tensor


def metres(values: Any, scale: float, none: Sequence[float] = (0,)) -> Tensor:
    """Raw depth [H, W] as float32 [1, H, W] in metres.

    Args:
        scale: values per metre.
        none: raw values that mean "no measurement"; NaN, infinity and values below 0 do always.
    """
    import numpy as np
    import torch

    raw = torch.from_numpy(np.array(values, dtype=np.float32))
    void = ~torch.isfinite(raw) | (raw < 0)
    for value in none:
        void |= raw == value
    return torch.where(void, torch.nan, raw / scale)[None]


def read_depth(path: Path, scale: float, none: Sequence[float] = (0, 65535)) -> Tensor:
    """Depth from a 16-bit grey image or a .npy [H, W], as float32 [1, H, W] in metres, NaN where there is none.

    Raises:
        FileError: missing or damaged.
        InputError: a picture of 8 bits or of colours, or an array of another shape.
    """
    import numpy as np

    from dense_ctx.images import open_image

    if path.suffix == ".npy":
        values = read_array(path)
        if values.ndim != 2:
            raise InputError(f"{path} is an array {list(values.shape)}; expected depth [H, W]")
        return metres(values, scale, none=(0,))
    image = open_image(path)
    if not image.mode.startswith("I"):
        raise InputError(f"{path} is a {image.mode} picture; expected depth as a 16-bit grey image")
    return metres(np.asarray(image), scale, none)


def read_normals(path: Path, signs: Sequence[float] = (1, 1, 1), mask: Path | None = None) -> Tensor:
    """Normals from an RGB picture (127.5 is 0) or a .npy [H, W, 3], as unit vectors [3, H, W], NaN where unknown.

    Args:
        signs: what to multiply x, y, z with to come to this library's axes.
        mask: picture, 0 where there is no normal.

    Raises:
        FileError: missing or damaged.
        InputError: not three channels, or a mask of another size.
    """
    import numpy as np
    import torch

    from dense_ctx.images import load_mask, open_image

    if path.suffix == ".npy":
        values = read_array(path).astype(np.float32)
    else:
        image = open_image(path)
        if image.mode not in ("RGB", "RGBA"):
            raise InputError(f"{path} is a {image.mode} picture; expected normals as RGB")
        values = np.asarray(image.convert("RGB"), dtype=np.float32) / 127.5 - 1
    if values.ndim != 3 or values.shape[2] != 3:
        raise InputError(f"{path} is an array {list(values.shape)}; expected normals [H, W, 3]")
    normals = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))
    normals = normals * torch.tensor(signs, dtype=torch.float32)[:, None, None]
    length = normals.norm(dim=0, keepdim=True)
    void = ~(length > 0.5)  # the grey of "no normal" is near 0; so written that NaN is void too
    if mask is not None:
        void |= load_mask(mask, (values.shape[0], values.shape[1]))[None] == 0
    return torch.where(void, torch.nan, normals / length.clamp_min(1e-6))
