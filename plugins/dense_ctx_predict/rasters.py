"""Class masks of GeoTIFFs of any size, window by window, by the registered label format `geotiff`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dense_ctx import registry
from dense_ctx.errors import FileError, InputError
from dense_ctx.images import load
from dense_ctx.interfaces import Size
from dense_ctx.model import DenseModel
from dense_ctx.plugins import blamed
from dense_ctx.progress import steps
from dense_ctx.tiling import Axis, Plan, plan, settled

from .predictor import Predictor

BUDGET = "2GB"  # where --max-memory is not given
SUFFIXES = (".tif", ".tiff")
_WIDEST = 2048  # pixels of a window: larger ones are no faster
_EXAMPLE = 1 << 26  # most pixels of an example, which is read whole
_PLACES = 3  # rows and columns of places of which the richest in contrast is looked at


class Region(NamedTuple):
    """A part of a raster."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Rasters:
    """How GeoTIFFs are read: the bands of red, green and blue, and the values of black and white (format `geotiff`)."""

    bands: tuple[int, ...] | None = None
    span: tuple[float, float] | None = None

    def form(self) -> Any:
        """The label format. Raises InputError: bands or a span that are none; MissingDependencyError: no rasterio."""
        return registry().create("label-format", "geotiff", bands=self.bands, span=self.span)

    def example(self, path: Path) -> Any:
        """An example's picture, uint8 [H, W, 3], read as the rasters are; the path of what is no TIFF.

        Raises:
            InputError: it is too large to be read whole. FileError: no GeoTIFF.
        """
        if path.suffix.lower() not in SUFFIXES:
            return path
        with blamed("label-format", "geotiff"), self.form().raster(path) as raster:
            if raster.size[0] * raster.size[1] > _EXAMPLE:
                raise InputError(
                    f"{path} is {raster.size[0]} x {raster.size[1]} (H x W), too large for an example, which is "
                    f"read whole (up to {_EXAMPLE / 1e6:.0f} megapixels): cut out its annotated part"
                )
            return raster.read(Region(0, 0, *raster.size))

    def label(self, predictor: Predictor, image: Path, out: Path, names: Any, max_memory: str | int | None) -> None:
        """Write the class mask of a raster, with its georeference, names and colours.

        Args:
            names: of the ids from 0 on, and their colours.
            max_memory: for a window's forward; "SIZE approximate" accepts a difference to the whole raster's result.

        Raises:
            MemoryBudgetError: the model sees farther than a window. FileError, InputError: the raster cannot be read;
                FileError: the mask cannot be written.
        """
        context = predictor.context
        if context is None or predictor.task != "segmentation":
            raise InputError("Rasters are labelled by windows with the classes of examples: leave --format tif out")
        form = self.form()
        with blamed("label-format", "geotiff"):
            with form.raster(image) as raster:
                side, margin = windows(predictor.model, raster, max_memory or BUDGET, len(predictor.classes))
            form.write_windows(
                image, out, *names, lambda picture: context.predict(picture).numpy(), window=side, margin=margin,
                progress=lambda parts: steps(parts, len(parts), "windows"),
            )  # fmt: skip


def windows(model: DenseModel, raster: Any, max_memory: str | int, channels: int) -> tuple[int, int]:
    """Side of the windows, and margin around each, whose forward stays within a budget.

    Both are multiples of the model's stride. The margin is so wide that two neighbours have the same features where
    they meet, which is looked at where the raster has most contrast (`dense_ctx.tiling.settled`).

    Args:
        raster: size, read(window): uint8 [h, w, 3].
        channels: classes.

    Raises:
        MemoryBudgetError: too small a budget, or a model that sees farther than a window.
    """
    stride = model.backbone.stride
    block = min(raster.size[0], _WIDEST), min(raster.size[1], _WIDEST)
    fit = plan(model, block, max_memory, channels)
    room = max(fit.rows.window, fit.columns.window)
    if len(fit) == 1 and block == tuple(raster.size):
        return -(-max(block) // stride) * stride, 0
    # two windows that overlap by a quarter cover 1.75 of their side: wider ones would overlap more, for nothing
    room = min(room, max(4 * stride, -(-max(raster.size) * 4 // 7 // stride) * stride))
    overlap = max(stride, room // 4 // stride * stride)
    along, across = 2 * room - overlap, room  # two windows beside each other along the longer side
    size = (across, along) if raster.size[1] >= raster.size[0] else (along, across)
    size = min(raster.size[0], size[0]), min(raster.size[1], size[1])
    rows, columns = (Axis.plan(length, room, overlap, stride, False) for length in size)
    crop = torch.as_tensor(load(_contrasted(raster, size)))[None]
    joined = settled(model, crop, Plan(rows, columns), max_memory)
    axis = joined.columns if len(joined.columns.starts) > 1 else joined.rows
    shared = axis.window - (axis.starts[1] - axis.starts[0]) if len(axis.starts) > 1 else overlap
    margin = -(-shared // 2 // stride) * stride
    return max(stride, room - 2 * margin), margin


def _contrasted(raster: Any, size: Size) -> Any:
    """Of some places the picture of this size with the greatest contrast: windows in a flat one are always equal."""
    places = [
        Region(i * (raster.size[0] - size[0]) // (_PLACES - 1), j * (raster.size[1] - size[1]) // (_PLACES - 1), *size)
        for i in range(_PLACES)
        for j in range(_PLACES)
    ]
    pictures = (raster.read(place) for place in dict.fromkeys(places))
    return max(pictures, key=lambda picture: float(picture.std()))


def raster_fault(path: Path, error: FileError) -> bool:
    """Whether an error is of reading this raster, not of writing its mask."""
    return str(error).startswith(f"{path} ")


def options(bands: Sequence[int] | None, span: Sequence[float] | None) -> Rasters:
    """Of the command line."""
    return Rasters(None if bands is None else tuple(bands), None if span is None else (span[0], span[1]))
