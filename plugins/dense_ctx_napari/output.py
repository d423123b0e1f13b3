"""The layers of the answer: labels below the strokes, and uncertainty."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Image, Labels
from napari.viewer import Viewer

from .layers import Array

LABELS, UNCERTAINTY = "dense-ctx labels", "dense-ctx uncertainty"


class Output:
    """The layers that show the answer for an image layer and its strokes.

    Attributes: labels, uncertainty: the layers; None until there is something to show, and after they were removed.
    """

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        self.labels: Labels | None = None
        self.uncertainty: Image | None = None
        self._image: Image | None = None  # that the labels are of

    def show_labels(self, image: Image, strokes: Labels, frame: int, labels: Array) -> None:
        """Show the labels [H, W] of a frame."""
        if self.labels is None or self._image is not image:
            self._image = image
            data = np.zeros(strokes.data.shape, np.uint8)
            self.labels = new_layer(self.viewer, Labels, data, LABELS, image, opacity=0.5, colormap=strokes.colormap)
            self.labels.editable = False
            layers = self.viewer.layers
            layers.move(layers.index(self.labels), layers.index(strokes))
            layers.selection.active = strokes
        if self.labels.ndim == 2:
            self.labels.data[:] = labels
        else:
            self.labels.data[frame] = labels
        self.labels.refresh()

    def show_uncertainty(self, image: Image, strokes: Labels, values: Array) -> None:
        """Show the uncertainty [H, W] of the frame that is shown."""
        if self.uncertainty is not None and self.uncertainty.data.shape == values.shape:
            self.uncertainty.data, self.uncertainty.visible = values, True
            return
        options = {"colormap": "magma", "blending": "additive", "opacity": 0.6, "contrast_limits": (0, 1)}
        self.uncertainty = new_layer(self.viewer, Image, values, UNCERTAINTY, image, **options)
        self.viewer.layers.selection.active = strokes

    def hide_uncertainty(self) -> None:
        """Hide it; removing float images is what vispy may crash in."""
        if self.uncertainty is not None:
            self.uncertainty.visible = False


def new_layer(viewer: Viewer, kind: type, data: Array, name: str, like: Image, **options: Any) -> Any:
    """A new layer that lies where an image layer does; of a stack, data without frames lies on each of them."""
    first = like.ndim - data.ndim
    place = {"scale": like.scale[first:], "translate": like.translate[first:], "units": like.units[first:]}
    if first == 0:
        place |= {"rotate": like.rotate, "shear": like.shear, "affine": like.affine, "axis_labels": like.axis_labels}
    layer = kind(data, name=name, **place, **options)
    viewer.add_layer(layer)
    return layer
