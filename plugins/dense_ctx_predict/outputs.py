"""Predictions as files: masks, depth, normals or values, and pictures of them over the images."""

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

from .predictor import Predictor
from .queries import Query

Format = Literal["png", "npy"]

FOLDERS: dict[Quantity, str] = {
    "segmentation": "masks",
    "depth": "depth",
    "normals": "normals",
    "regression": "values",
}
QUALITY = 90  # of JPEG


@dataclass(frozen=True)
class Writer:
    """Predicts a query and writes its files below `out`.

    predictor: what predicts. format: "png" (masks, 16-bit depth, normals as colours) or "npy". scale: values of a
    depth PNG per metre. pictures: overlays and depth pictures too. max_memory: as for `Predictor.predict`.
    """

    predictor: Predictor
    out: Path
    format: Format = "png"
    scale: float = 1000.0
    pictures: bool = True
    max_memory: str | None = None

    def files(self, query: Query) -> list[Path]:
        """The files of a query, below `out`; of a clip the folder of its frames."""
        kind = Path(FOLDERS[self.predictor.task]) / query.name
        main = kind if query.clip else kind.with_name(f"{kind.name}.{self.format}")
        if not self.pictures:
            return [main]
        folder = Path("overlays" if self.predictor.task == "segmentation" else "pictures") / query.name
        return [main, folder.with_name(f"{folder.name}{'.mp4' if query.clip else '.jpg'}")]

    def write(self, query: Query) -> dict[str, Any]:
        """Predict and write; notes for the summary: how many pixels have no positive depth.

        Raises:
            QueryError: it cannot be read, predicted, or stored as asked.
            FileError: a file cannot be written.
        """
        return self._clip(query) if query.clip else self._image(query)

    def _image(self, query: Query) -> dict[str, Any]:
        with query_fault():
            image = load(query.path)
            prediction = self.predictor.predict(image, self.max_memory)
        main, *pictures = self.files(query)
        none = self._store(self.out / main, prediction)
        for picture in pictures:
            shown = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            with new_file(self.out / picture, sync=False) as partial:
                Image.fromarray(self._picture(shown, prediction, _span(prediction))).save(partial, quality=QUALITY)
        return {"without_depth": none}

    def _clip(self, query: Query) -> dict[str, Any]:
        with query_fault():
            video = Video(query.path)
        main, *pictures = self.files(query)
        none = count = 0

        def shown() -> Iterator[Picture]:
            nonlocal none, count
            span: tuple[float, float] | None = None
            frames = iter(steps(video, len(video), "frames"))
            while True:
                with query_fault():
                    frame = next(frames, None)
                    if frame is None:
                        break
                    prediction = self.predictor.predict(frame, self.max_memory)
                none += self._store(self.out / main / f"{count:05d}.{self.format}", prediction)
                count += 1
                span = span or _span(prediction)  # one for all frames, or the colours would flicker
                if pictures:
                    yield self._picture(frame, prediction, span)

        for picture in pictures:
            write_video(self.out / picture, shown(), video.fps)
        if not pictures:
            collections.deque(shown(), maxlen=0)
        for frame in (self.out / main).glob(f"[0-9]*.{self.format}"):  # of a longer clip that was here before
            if frame.stem.isdecimal() and int(frame.stem) >= count:
                frame.unlink()
        return {"without_depth": none, "frames": count}

    def _store(self, path: Path, prediction: Tensor) -> int:
        """Write one prediction; how many pixels of it have no positive depth."""
        task, none = self.predictor.task, 0
        if task == "depth":
            none = int((prediction[0] <= 0).sum())
        if self.format == "npy":
            array = prediction.numpy() if task in ("segmentation", "regression") else prediction.movedim(0, -1).numpy()
            with new_file(path, sync=False) as partial:
                np.save(partial, array[..., 0] if task == "depth" else array)
        elif task == "segmentation":
            save_labels(path, prediction, self.predictor.colours)
        elif task == "normals":
            save_picture(path, normals_picture(prediction))
        elif task == "depth":
            with query_fault():
                values = depth_values(prediction[0], self.scale)
            save_picture(path, Image.fromarray(values))
        else:
            raise InputError("Values of no known unit are written as .npy: --format npy")
        return none

    def _picture(self, image: Picture, prediction: Tensor, span: tuple[float, float]) -> Picture:
        if self.predictor.task == "segmentation":
            return overlay(image, prediction, self.predictor.colours)
        if self.predictor.task == "normals":
            return normals_picture(prediction)
        return heat_picture(prediction[0], *span)


class QueryError(DenseCtxError):
    """An image or clip that cannot be predicted; others can."""


@contextmanager
def query_fault() -> Iterator[None]:
    """What goes wrong in the block is a fault of the query."""
    try:
        yield
    except (FileError, InputError, MemoryBudgetError, NonFiniteError) as error:
        raise QueryError(str(error)) from error


def depth_values(depth: Tensor, scale: float) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Depth [H, W] in metres as 16-bit values, `scale` per metre; 0 where it is not above 0.

    Raises:
        InputError: a depth beyond 65535 / scale.
    """
    values = (depth * scale).round().clamp_min(0)
    if (most := float(values.max())) > 65535:
        raise InputError(
            f"A depth of {most / scale:.4g} m times --scale {scale:g} is above 65535, the most that 16 bits hold: a "
            f"smaller --scale (at most {65535 * scale / most:.4g}), or --format npy"
        )
    return values.to(torch.int32).numpy().astype(np.uint16)


def _span(prediction: Tensor) -> tuple[float, float]:
    """Lowest and highest value, but for the outermost hundredths: one wild pixel should not decide the colours."""
    if not prediction.is_floating_point():
        return 0.0, 1.0
    values = prediction[0].flatten()[:: max(1, prediction[0].numel() // 100_000)]
    low, high = torch.quantile(values, torch.tensor([0.01, 0.99])).tolist()
    return low, high
