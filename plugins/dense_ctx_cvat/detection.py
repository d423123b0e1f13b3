"""A saved predictor or a trained head as a CVAT detection function: classes as masks or polygons of each image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from dense_ctx_labels.classes import Classes, is_background
from dense_ctx_labels.raster import Mask, fill
from dense_ctx_predict import LabelClass, Predictor
from dense_ctx_predict.opening import open_predictor

from dense_ctx.errors import InputError
from dense_ctx.gateway import gateway

from .sdk import cvat
from .shapes import TYPES, checked_tolerance, mask_points, outlines, polygon_points

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 64  # letters of a label's name in CVAT


class Detection:
    """A `cvat_sdk.auto_annotation.DetectionFunction`: a shape of each class, or of each of its regions.

    Labels have the names and ids of the predictor's classes. A class that means background has no label: in CVAT it is
    where nothing is annotated. A shape's score is the mean probability of its pixels; a confidence threshold leaves out
    the pixels whose class has a lower probability, so that no shape has a lower score.

    Args:
        model: a saved predictor or a trained head: a folder, or a Hub repository OWNER/NAME.
        shape: "mask" (one for each class) or "polygon" (one for each connected region). CVAT's own wish for polygons
            (`--conv-mask-to-poly`) goes before it.
        tolerance: pixels by which a polygon of fewer points may be beside the exact outline; 0: exact.
        min_area: connected regions of fewer pixels are left out.
        max_memory: "2GB": tile large images to stay within it.
        device: cpu, cuda, cuda:1, mps, or the best available ("auto").

    Raises:
        InputError: the model predicts no classes but depth, normals or values, or has features only; classes whose
            names CVAT cannot hold; an argument that is not one of these. Others as `Predictor.from_pretrained`.
    """

    @gateway
    def __init__(
        self,
        model: str,
        *,
        shape: str = "mask",
        tolerance: float = 0.0,
        min_area: int = 0,
        max_memory: str | None = None,
        device: str = "auto",
    ) -> None:
        if shape not in TYPES:
            raise InputError(f"shape={shape!r:.40}: expected {' or '.join(TYPES)}")
        if min_area < 0:
            raise InputError(f"min_area={min_area}: expected a number of pixels, 0 or more")
        self._tolerance = checked_tolerance(tolerance)
        self.predictor = open_predictor(model, device)
        self._classes = _labelled(self.predictor, model)
        self._shape, self._min_area, self._max_memory = shape, min_area, max_memory
        self.spec = cvat.DetectionFunctionSpec(
            labels=[cvat.label_spec(item.name, item.id, type=shape) for item in self._classes]
        )

    @gateway
    def detect(self, context: cvat.DetectionFunctionContext, image: Image) -> list[Any]:
        """The shapes of an image, `cvat_sdk.models.LabeledShapeRequest`, class by class.

        Raises:
            InputError: an image of a mode that is not read (`dense_ctx.images.load`).
        """
        scores = self.predictor.scores(image, self._max_memory).numpy()
        confidence, best = scores.max(0), scores.argmax(0)
        presence = confidence >= (context.conf_threshold or 0)
        places = {item.id: place for place, item in enumerate(self.predictor.classes)}
        shapes = []
        for item in self._classes:
            mask = self._without_specks((best == places[item.id]) & presence)
            if mask.any():
                shapes += list(self._shapes(item.id, mask, confidence, context.conv_mask_to_poly))
        return shapes

    def _shapes(self, label: int, mask: Mask, confidence: Any, to_polygons: bool) -> Iterator[Any]:
        if self._shape == "mask" and not to_polygons:
            yield cvat.mask(label, mask_points(mask), score=_score(confidence[mask]))
            return
        for ring in outlines(mask):
            region, x, y = fill([ring], mask.shape)
            inside = confidence[y : y + region.shape[0], x : x + region.shape[1]][region]
            yield cvat.polygon(label, polygon_points(ring, self._tolerance), score=_score(inside))

    def _without_specks(self, mask: Mask) -> Mask:
        """The mask without its connected regions of fewer than `min_area` pixels."""
        from scipy import ndimage

        if self._min_area <= 1:
            return mask
        parts, _ = ndimage.label(mask)
        large: Mask = mask & (np.bincount(parts.ravel()) >= self._min_area)[parts]
        return large


def _score(confidence: Any) -> float:
    return round(float(confidence.mean()), 4)


def _labelled(predictor: Predictor, model: str) -> tuple[LabelClass, ...]:
    """The classes that become labels.

    Raises:
        InputError: see `Detection`.
    """
    if predictor.task != "segmentation":
        raise InputError(f"{model} predicts {predictor.task}, which is no annotation of CVAT's: name one of classes")
    classes = tuple(item for item in predictor.classes if not is_background(item.name))
    if not classes:
        raise InputError(f"{model} has no class but background: there is nothing to annotate")
    Classes(tuple(item.name for item in predictor.classes))  # distinct, printable names
    for item in classes:
        if len(item.name) > LONGEST:
            raise InputError(f"A label of CVAT has at most {LONGEST} letters; class {item.id} is {item.name[:80]!r}")
    return classes


create = Detection
