"""Clicks to a mask, as a CVAT interaction function: each image is a session, the clicks are its strokes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from dense_ctx_labels.raster import Mask, box, draw, fill
from dense_ctx_labels.records import mask_in
from dense_ctx_session import Session
from dense_ctx_session.reading import RIDGE
from scipy import ndimage

from dense_ctx import registry
from dense_ctx.config import parse_part
from dense_ctx.errors import InputError
from dense_ctx.gateway import gateway
from dense_ctx.interfaces import Size
from dense_ctx.model_spec import DEFAULT_MODEL, open_model

from .sdk import cvat, models
from .shapes import mask_points

if TYPE_CHECKING:
    from PIL.Image import Image

BACKGROUND, OBJECT, UNKNOWN = 0, 1, 255


class Interaction:
    """A `cvat_sdk.auto_annotation.InteractionFunction`: points on the object, points beside it, and perhaps a box.

    The features of an image are computed once. All that looks like the object belongs to it in a session; what comes
    back here are the connected regions with a point in them, so that one of several like objects can be asked for. A
    box limits the answer; nothing is learnt from it, since beside it may be objects that look the same.

    Args:
        model: any model or backbone, as `dense-ctx explore --model`.
        method: a registered probe that learns from the points, NAME or NAME(key=value, ...), see `Session`.
        radius: of the disc that a point stands for, in pixels.
        device: cpu, cuda, cuda:1, mps, or the best available ("auto").

    Raises:
        Errors of `dense_ctx.model_spec.open_model`. InputError: an argument that is not one of these.
    """

    @gateway
    def __init__(
        self, model: str = DEFAULT_MODEL, *, method: str = RIDGE, radius: float = 3.0, device: str = "auto"
    ) -> None:
        self._method = parse_part(method)
        registry().bind("probe", self._method.name, **self._method.args)
        if not 0 < radius <= 1000:
            raise InputError(f"radius={radius}: expected above 0 and at most 1000 pixels")
        self._model, self._radius = open_model(model, device), radius
        # two classes are needed to tell one from the other
        self.spec = cvat.InteractionFunctionSpec(min_pos_points=1, min_neg_points=1, min_bounding_boxes=0)

    @gateway
    def preprocess_image(self, context: cvat.InteractionFunctionContext, image: Image) -> Session:
        """A session of the image, with its features. Raises InputError: an image of a mode that is not read."""
        session = Session(self._model, [image], method=self._method, classes=["background", "object"])
        session.labels(0)
        return session

    @gateway
    def detect(
        self, context: cvat.InteractionFunctionContext, pp_image: Session, prompts: cvat.InteractionPrompts
    ) -> list[cvat.InteractionResultShape]:
        """The mask, with its mean probability as confidence; it does not depend on earlier calls.

        Raises:
            InputError: a point outside of the image, or of the object and outside of the box; no point on the object,
                or nothing that is not the object.
        """
        item = pp_image.items[0]
        size = (item.height, item.width)
        inside = np.ones(size, dtype=bool) if prompts.bounding_box is None else _of_box(prompts.bounding_box, size)
        strokes = self._drawn(prompts, inside)
        pp_image.mask_label(0, strokes)
        try:
            mask = _clicked((pp_image.labels(0) == OBJECT) & inside, strokes == OBJECT)
            confidence = float(pp_image.probabilities(0)[OBJECT][mask].mean())
        finally:
            pp_image.clear(0)
        attribute = models.AttributeValRequest(
            spec_id=cvat.InteractionResultAttributes.CONFIDENCE, value=f"{min(max(confidence, 0.0), 1.0):.4f}"
        )
        return [cvat.InteractionResultShape(type="mask", points=mask_points(mask), attributes=[attribute])]

    def _drawn(self, prompts: cvat.InteractionPrompts, inside: Mask) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """What the prompts say, uint8 [H, W]; `inside`: of the box."""
        size = (inside.shape[0], inside.shape[1])
        labels = np.full(size, UNKNOWN, dtype=np.uint8)
        for x, y in prompts.pos_points:
            disc = self._disc((x, y), size)
            if not inside[min(int(y), size[0] - 1), min(int(x), size[1] - 1)]:
                raise InputError(f"The point ({x:.6g}, {y:.6g}) of the object is outside of its box")
            labels[disc & inside] = OBJECT
        for point in prompts.neg_points:
            labels[self._disc(point, size)] = BACKGROUND
        for value, name in ((OBJECT, "on the object"), (BACKGROUND, "beside the object")):
            if not (labels == value).any():
                raise InputError(f"There is no pixel {name}: add a point")
        return labels

    def _disc(self, point: Sequence[float], size: Size) -> Mask:
        x, y = point
        if not (0 <= x <= size[1] and 0 <= y <= size[0]):
            raise InputError(f"The point ({x:.6g}, {y:.6g}) is outside of the image of {size[1]} x {size[0]} (W x H)")
        return draw(np.array([[x, y]], dtype=np.float64), 2 * self._radius, size)


def _of_box(corners: Sequence[Sequence[float]], size: Size) -> Mask:
    """The pixels of a box, bool [H, W]."""
    (left, top), (right, bottom) = corners
    mask, x, y = fill([box(left, top, right, bottom)], size)
    if not mask.any():
        raise InputError(f"The box from ({left:.6g}, {top:.6g}) to ({right:.6g}, {bottom:.6g}) holds no pixel")
    return mask_in(mask, (x, y), size)


def _clicked(mask: Mask, points: Mask) -> Mask:
    """The connected regions of a mask that hold a point."""
    parts, _ = ndimage.label(mask)
    held: Mask = np.isin(parts, np.unique(parts[points & mask])) & mask
    return held


create = Interaction
