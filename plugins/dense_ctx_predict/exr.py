"""Depth in OpenEXR files: floats in metres; needs OpenEXR (extra `exr`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dense_ctx.containment import optional_package
from dense_ctx.errors import FileError, InputError
from dense_ctx.files import new_file, regular_size

SUFFIX = ".exr"
NOTHING = 1e10  # Blender's depth where there is no surface
_CHANNEL = "Z"  # depth, by the format's convention; of a layer "NAME.Z"

DepthArray = np.ndarray[Any, np.dtype[np.float32]]


def library() -> Any:
    """The module OpenEXR. Raises MissingDependencyError: it is not installed."""
    return optional_package("OpenEXR", "Depth in .exr files", '"dense-ctx[exr]"')


def read_depth_values(path: Path) -> DepthArray:
    """Depth [H, W] as it is stored: the only channel, the one named Z or NAME.Z, or three equal ones (R, G, B).

    Raises:
        FileError: missing, damaged or no OpenEXR file. InputError: several parts, or channels of which none is depth.
    """
    exr = library()
    if not path.exists():
        raise FileError(f"No depth at {str(path)[:300]}")
    regular_size(path)
    try:
        with exr.File(str(path), separate_channels=True) as file:
            if len(file.parts) != 1:
                raise InputError(f"{path} has {len(file.parts)} parts; expected one with the depth")
            channels = {name: np.asarray(channel.pixels) for name, channel in file.channels().items()}
    except (RuntimeError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise FileError(f"{path} cannot be read as OpenEXR: {error}") from error
    depth = [name for name in channels if name.rpartition(".")[2] == _CHANNEL]
    if len(channels) == 1 or len(depth) == 1:
        values = channels[depth[0] if depth else next(iter(channels))]
    elif sorted(name.rpartition(".")[2] for name in channels) == ["B", "G", "R"] and _equal([*channels.values()]):
        values = next(iter(channels.values()))
    else:
        raise InputError(f"{path} has the channels {', '.join(channels)[:200]}; expected one, or one named Z: depth")
    if values.ndim != 2:
        raise InputError(f"{path} is an array {list(values.shape)}; expected depth [H, W]")
    return values.astype(np.float32)


def _equal(arrays: list[Any]) -> bool:
    return all(array.shape == arrays[0].shape and np.array_equal(array, arrays[0]) for array in arrays[1:])


def write_depth_values(path: Path, values: DepthArray) -> None:
    """Write depth [H, W] in metres as the float32 channel Z, losslessly compressed. Raises FileError: it cannot be."""
    exr = library()
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    with new_file(path, f"the depth {path}", faults=(RuntimeError,), sync=False) as partial:
        exr.File(header, {_CHANNEL: np.ascontiguousarray(values, dtype=np.float32)}).write(str(partial))
