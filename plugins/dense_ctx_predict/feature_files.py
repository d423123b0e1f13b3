"""An image's features in a file, computed window by window: of an image whose features do not fit into memory."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import torch

from dense_ctx.errors import InputError
from dense_ctx.files import new_file
from dense_ctx.gateway import gateway
from dense_ctx.images import ImageLike, load
from dense_ctx.model import DenseModel
from dense_ctx.numerics import require_finite
from dense_ctx.progress import steps
from dense_ctx.tiling import plan, settled


@torch.no_grad()
@gateway
def write_features(
    model: DenseModel,
    image: ImageLike,
    path: str | os.PathLike[str],
    max_memory: str | int = "2GB",
    dtype: str = "float16",
) -> Path:
    """Write an image's pixel features to a .npy file, window by window; read it with `numpy.load(path, mmap_mode="r")`.

    The array is [H, W, dim] (a pixel's vector is one run of the file). It appears under its name only when complete.

    Args:
        dtype: "float16" or "float32".

    Raises:
        FileError: no room, or no right to write.
        MemoryBudgetError: not even one small window fits, or the model sees farther than a window (`settled`).
        NonFiniteError: features that are NaN or infinite, or that float16 cannot hold.
    """
    if dtype not in ("float16", "float32"):
        raise InputError(f"dtype={dtype!r} is not 'float16' or 'float32'")
    path = Path(path)
    pixels = load(image)[None]
    size = (pixels.shape[-2], pixels.shape[-1])
    windows = settled(model, pixels, plan(model, size, max_memory), max_memory)
    size_in_bytes = size[0] * size[1] * model.dim * np.dtype(dtype).itemsize
    with new_file(path, f"{size_in_bytes / 1e9:.3g} GB of features to {path}") as partial:
        _reserve(partial, size_in_bytes)
        np.lib.format.open_memmap(partial, mode="w+", dtype=np.dtype(dtype), shape=(*size, model.dim))
        for window, cells, weights in steps(windows.tiles(size), len(windows), "windows"):
            features = model(pixels[:, :, window[0], window[1]]).pixels[0]
            half = (features * weights.to(features)).movedim(0, -1).to(getattr(torch, dtype))
            require_finite(f"The features in {dtype}", 'dtype="float32" holds larger numbers', values=half)
            values = half.cpu().numpy()
            # opened and closed for each window: mapped pages count as this process' memory
            array = np.lib.format.open_memmap(partial, mode="r+")
            array[cells[0], cells[1]] += values
            array.flush()
            del array
    return path


def _reserve(path: Path, size_in_bytes: int) -> None:
    """Refuse a disk without room at once: a mapped file that outgrows its disk kills the process with a signal."""
    free = shutil.disk_usage(path.parent).free
    if free < size_in_bytes:
        raise OSError(f"the disk has {free / 1e9:.3g} GB free")
