"""Propagation as a CVAT tracking function: a mask or polygon drawn on a frame is carried to the following ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from dense_ctx_predict.tracking import Frame, MaskTracker, Track

from dense_ctx.gateway import gateway
from dense_ctx.model_spec import DEFAULT_MODEL, open_model

from .sdk import cvat
from .shapes import TYPES, checked_tolerance, mask_of, mask_points, outlines, polygon_points

if TYPE_CHECKING:
    from PIL.Image import Image


class Tracking:
    """A `cvat_sdk.auto_annotation.TrackingFunction`. The features of a frame serve all shapes that are tracked on it.

    A mask is carried as it is; a polygon comes back as the outline of the largest region, since it has one. An object
    without a pixel left has no shape in that frame.

    Args:
        model: any model or backbone, as `dense-ctx track --model`.
        stride: pixels of a cell of the grid on which labels move; a smaller one costs time and keeps finer outlines.
        tolerance: pixels by which a polygon of fewer points may be beside the exact outline.
        max_memory: "2GB": tile large frames to stay within it.
        device: cpu, cuda, cuda:1, mps, or the best available ("auto").

    Raises:
        Errors of `dense_ctx.model_spec.open_model`. InputError: an argument that is not one of these.
    """

    @gateway
    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        stride: int = 8,
        tolerance: float = 0.0,
        max_memory: str | None = None,
        device: str = "auto",
    ) -> None:
        self._tolerance = checked_tolerance(tolerance)
        self._tracker = MaskTracker(open_model(model, device), stride=stride, max_memory=max_memory)
        self.spec = cvat.TrackingFunctionSpec(supported_shape_types=frozenset(TYPES))

    @gateway
    def preprocess_image(self, context: cvat.TrackingFunctionContext, image: Image) -> Frame:
        """The features of a frame. Raises InputError: an image of a mode that is not read."""
        return self._tracker.frame(image)

    @gateway
    def init_tracking_state(
        self, context: cvat.TrackingFunctionShapeContext, pp_image: Frame, shape: cvat.TrackableShape
    ) -> Track:
        """Begin with a shape.

        Raises:
            InputError: a shape of another type, without a pixel in the frame, or over all of it.
        """
        mask = mask_of(shape.type, shape.points, pp_image.size)
        return self._tracker.start(pp_image, mask.astype(np.int64))

    @gateway
    def track(
        self, context: cvat.TrackingFunctionShapeContext, pp_image: Frame, state: Track
    ) -> cvat.TrackableShape | None:
        """The shape in the next frame, of the type it began with; None where nothing of the object is left."""
        mask = state.step(pp_image).numpy() == 1
        if not mask.any():
            return None
        kind = context.original_shape_type
        points = mask_points(mask) if kind == "mask" else polygon_points(outlines(mask)[0], self._tolerance)
        return cvat.TrackableShape(type=kind, points=points)


create = Tracking
