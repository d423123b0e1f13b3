"""Write predictions: masks, depth, normals or values, and overlays or pictures of them."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dense_ctx.config import Quantity
from dense_ctx.data.video import Video, write_video
from dense_ctx.errors import DenseCtxError, FileError, InputError, MemoryBudgetError, NonFiniteError
from dense_ctx.files import new_file
from dense_ctx.images import load
from dense_ctx.progress import steps
from dense_ctx.visualize import Picture, heat_picture, normals_picture, overlay, save_labels, save_picture

from . import exr
from .batches import decoded
from .predictor import Predictor
from .queries import Query
from .rasters import SUFFIXES, Rasters, raster_fault

Format = Literal["png", "npy", "tif", "exr"]

FOLDERS: dict[Quantity, str] = {
    "segmentation": "masks",
    "depth": "depth",
    "normals": "normals",
    "regression": "values",
}
QUALITY = 90  # of JPEG


@dataclass(frozen=True)
class Writer:
    """Predicts a query and writes its files in `out`.

    format: "png" (masks, 16-bit depth, normals as colours), "npy", "exr" (depth in metres), or "tif" (masks of GeoTIFFs
    of any size). scale: values of a depth PNG per metre. pictures: also write overlays or pictures. max_memory: as for
    `Predictor.predict`. rasters: how GeoTIFFs are read, for "tif".
    """

    predictor: Predictor
    out: Path
    format: Format = "png"
    scale: float = 1000.0
    pictures: bool = True
    max_memory: str | None = None
    rasters: Rasters | None = None

    def files(self, query: Query) -> list[Path]:
        """Output paths of a query, relative to `out`; for a clip, the folder of its frames."""
        kind = Path(FOLDERS[self.predictor.task]) / query.name
        main = kind if query.clip else kind.with_name(f"{kind.name}.{self.format}")
        if not self.pictures:
            return [main]
        folder = Path("overlays" if self.predictor.task == "segmentation" else "pictures") / query.name
        return [main, folder.with_name(f"{folder.name}{'.mp4' if query.clip else '.jpg'}")]

    def read(self, query: Query) -> Tensor | None:
        """The image of a query; None of a clip or a raster, which is read as it is predicted.

        Raises:
            QueryError: it cannot be read.
        """
        if query.clip or self.rasters is not None:
            return None
        with query_fault():
            return _loaded(query.path)

    def write(self, query: Query, image: Tensor | None = None, prediction: Tensor | None = None) -> dict[str, Any]:
        """Predict and write a query.

        Args:
            image, prediction: where they are at hand: what `read` and `Predictor.predict` give.

        Returns:
            For the summary: "without_depth", the number of pixels without a positive depth; "frames" of a clip.

        Raises:
            QueryError: the query cannot be read, predicted, or stored in this format.
            FileError: a file cannot be written.
        """
        if self.rasters is not None:
            return self._raster(query, self.rasters)
        return self._clip(query) if query.clip else self._image(query, image, prediction)

    def _raster(self, query: Query, rasters: Rasters) -> dict[str, Any]:
        from .labels import named_ids

        if query.clip:
            raise QueryError(f"{query.path} is a clip; --format tif is of GeoTIFFs")
        try:
            names = named_ids(self.predictor)
            rasters.label(self.predictor, query.path, self.out / self.files(query)[0], names, self.max_memory)
        except (InputError, MemoryBudgetError, NonFiniteError) as error:
            raise QueryError(str(error)) from error
        except FileError as error:
            if not raster_fault(query.path, error):
                raise
            raise QueryError(str(error)) from error
        return {"without_depth": 0}

    def _image(self, query: Query, read: Tensor | None, prediction: Any) -> dict[str, Any]:
        with query_fault():
            image = _loaded(query.path) if read is None else read
            prediction = self.predictor.predict(image, self.max_memory) if prediction is None else prediction
        main, *pictures = self.files(query)
        none = self._store(self.out / main, prediction)
        for picture in pictures:
            pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            with new_file(self.out / picture, sync=False) as partial:
                Image.fromarray(self._picture(pixels, prediction, _span(prediction))).save(partial, quality=QUALITY)
        return {"without_depth": none}

    def _clip(self, query: Query) -> dict[str, Any]:
        with query_fault():
            video = Video(query.path)
        main, *pictures = self.files(query)
        none = count = 0

        def shown() -> Iterator[Picture]:
            nonlocal none, count
            span: tuple[float, float] | None = None
            frames = iter(steps(decoded(video), len(video), "frames"))
            while True:
                with query_fault():
                    frame = next(frames, None)
                    if frame is None:
                        break
                    prediction = self.predictor.predict(frame, self.max_memory)
                none += self._store(self.out / main / f"{count:05d}.{self.format}", prediction)
                count += 1
                span = span or _span(prediction)  # the first frame's for all, so that colours do not flicker
                if pictures:
                    yield self._picture(frame, prediction, span)

        for picture in pictures:
            write_video(self.out / picture, shown(), video.fps)
        if not pictures:
            collections.deque(shown(), maxlen=0)
        remove_later_frames(self.out / main, count, f".{self.format}")
        return {"without_depth": none, "frames": count}

    def _store(self, path: Path, prediction: Tensor) -> int:
        """Write one prediction; returns the number of its pixels without a positive depth."""
        task, none = self.predictor.task, 0
        if task == "depth":
            none = int((prediction[0] <= 0).sum())
        if self.format == "npy":
            array = prediction.numpy() if task in ("segmentation", "regression") else prediction.movedim(0, -1).numpy()
            with new_file(path, sync=False) as partial:
                np.save(partial, array[..., 0] if task == "depth" else array)
        elif self.format == "exr":
            exr.write_depth_values(path, prediction[0].numpy())
        elif task == "segmentation":
            save_labels(path, prediction, self.predictor.colours)
        elif task == "normals":
            save_picture(path, normals_picture(prediction))
        elif task == "depth":
            with query_fault():
                values = depth_values(prediction[0], self.scale)
            save_picture(path, Image.fromarray(values))
        else:
            raise InputError("Values without a unit are written as .npy: --format npy")
        return none

    def _picture(self, image: Picture, prediction: Tensor, span: tuple[float, float]) -> Picture:
        if self.predictor.task == "segmentation":
            return overlay(image, prediction, self.predictor.colours)
        if self.predictor.task == "normals":
            return normals_picture(prediction)
        return heat_picture(prediction[0], *span)


def _loaded(path: Path) -> Tensor:
    try:
        return load(path)
    except FileError as error:
        if isinstance(error.__cause__, Image.DecompressionBombError) and path.suffix.lower() in SUFFIXES:
            raise FileError(f"{path} is too large to be read whole: --format tif goes through it by windows") from error
        raise


def remove_later_frames(folder: Path, count: int, suffix: str) -> None:
    """Remove what a longer clip of the same name left in the folder of a clip of `count` frames."""
    for frame in folder.glob(f"[0-9]*{suffix}"):
        if frame.stem.isdecimal() and int(frame.stem) >= count:
            frame.unlink()


class QueryError(DenseCtxError):
    """One image or clip cannot be predicted; the run goes on with the others."""


@contextmanager
def query_fault() -> Iterator[None]:
    """Re-raise errors of the block as QueryError."""
    try:
        yield
    except (FileError, InputError, MemoryBudgetError, NonFiniteError) as error:
        raise QueryError(str(error)) from error


def depth_values(depth: Tensor, scale: float) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Convert depth [H, W] in metres to uint16, `scale` values per metre; 0 where the depth is not positive.

    Raises:
        InputError: a depth exceeds 65535 / scale metres.
    """
    values = (depth * scale).round().clamp_min(0)
    if (most := float(values.max())) > 65535:
        raise InputError(
            f"A depth of {most / scale:.4g} m times --scale {scale:g} exceeds 65535, the largest 16-bit value: use a "
            f"smaller --scale (at most {65535 * scale / most:.4g}), or --format npy"
        )
    return values.to(torch.int32).numpy().astype(np.uint16)


def _span(prediction: Tensor) -> tuple[float, float]:
    """The 1st and 99th percentile of the values, so that outliers do not set the colour range."""
    if not prediction.is_floating_point():
        return 0.0, 1.0
    values = prediction[0].flatten()[:: max(1, prediction[0].numel() // 100_000)]
    low, high = torch.quantile(values, torch.tensor([0.01, 0.99])).tolist()
    return low, high
