"""A loaded graph with the calls of the model it was exported from: numpy in, numpy out."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dense_ctx.errors import InputError, NonFiniteError
from dense_ctx.persistence.pixels import read_pixels

from .facts import Facts, LabelClass
from .geometry import Array, Size, cell_inputs, padded, resize_axis, step_of
from .windows import cuts, grid_of, tiles

TRACKS = "This file carries masks from frame to frame: open it with dense_ctx_runtime.OnnxTracker"
LIMIT = 1.2  # of an int8 model: distance to the nearest calibration image, of the largest among these
_FLOOR = 1e-4  # of a standard deviation: a channel may be constant


class OutsideCalibration(UserWarning):
    """An int8 model runs on an image unlike those it was calibrated with."""


@dataclass(frozen=True)
class DenseArrays:
    """pixels float32 [1, D, H, W], patches [1, C, h, w] (the deepest map), cls [1, C] or None.

    extent: share of the patch grid's height and width that the image covers; the rest is padding.
    """

    pixels: Array
    patches: Array
    cls: Array | None
    extent: tuple[float, float]

    def __iter__(self) -> Iterator[Array | None]:
        return iter((self.pixels, self.patches, self.cls))


class GraphModel(ABC):
    """An exported model.

    Attributes:
        facts: what the file says of itself.
    """

    facts: Facts

    @abstractmethod
    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The graph's outputs by name."""

    @property
    def task(self) -> str:
        """ "features", or what is predicted: "segmentation", "depth", "normals", "regression"."""
        return self.facts.task

    @property
    def classes(self) -> tuple[LabelClass, ...]:
        """In the order of the score channels; () unless the task is segmentation."""
        return self.facts.classes

    def __call__(self, images: Any, *, strict: bool = False) -> Any:
        """Features of an image (path, PIL image, array [H, W, 3]) as `DenseArrays`; a list of them for a list.

        Args:
            strict: refuse, not warn, where an int8 model is outside its calibration.

        Raises:
            FileError, InputError: an image that cannot be read or is not one; of another size than the graph takes.
            NonFiniteError: features that are NaN or infinite.
        """
        if self.task == "track":
            raise InputError(TRACKS)
        if self.task != "features":
            raise InputError(f"This file predicts {self.task}, and gives no features: call predict or scores")
        if isinstance(images, (list, tuple)):
            return [self(image, strict=strict) for image in images]
        outputs, size = self._outputs(images, strict)
        full = [-(-side // self.facts.stride) * self.facts.stride for side in size]
        extent = (size[0] / full[0], size[1] / full[1])
        return DenseArrays(outputs["pixels"], outputs["patches"], outputs.get("cls"), extent)

    def scores(self, image: Any, *, strict: bool = False) -> Array:
        """Class probabilities in the order of `classes`, or values: float32 [K, H, W]; errors as of a call."""
        if self.task == "track":
            raise InputError(TRACKS)
        if self.task == "features":
            raise InputError("This file has no fitted head: export a predictor, or call it for features")
        return np.asarray(self._outputs(image, strict)[0]["pixels"][0])

    def predict(self, images: Any, *, strict: bool = False) -> Any:
        """Label ids int64 [H, W], or values float32 [K, H, W]; a list for a list."""
        if isinstance(images, (list, tuple)):
            return [self.predict(image, strict=strict) for image in images]
        scores = self.scores(images, strict=strict)
        return np.array([item.id for item in self.classes])[scores.argmax(0)] if self.classes else scores

    def _outputs(self, image: Any, strict: bool) -> tuple[dict[str, Array], Size]:
        pixels = read_pixels(image)[None]
        size = (pixels.shape[-2], pixels.shape[-1])
        outputs = self.run(self.inputs(pixels))
        outputs["pixels"] = outputs["pixels"][:, :, : size[0], : size[1]]
        names = [name for name, value in outputs.items() if not np.isfinite(value).all()]
        if names:
            raise NonFiniteError(f"The result of the exported model: NaN or infinity in {', '.join(names)}")
        self._check_calibration(outputs["patches"], strict)
        return outputs, size

    def inputs(self, pixels: Array) -> dict[str, Array]:
        """The graph's inputs for an image [1, 3, H, W] in [0, 1].

        Raises:
            InputError: of another size than the graph takes.
        """
        facts, size = self.facts, (pixels.shape[-2], pixels.shape[-1])
        if facts.size is not None:
            if size != facts.size:
                raise InputError(
                    f"The image is {size[0]} x {size[1]} (H x W); this file takes {facts.size[0]} x {facts.size[1]} "
                    'only: resize the image, or export with size="dynamic"'
                )
            return {"image": pixels}
        if facts.reads == "resized" and facts.image_size and facts.output_size:
            sides = list(zip(size, facts.image_size, facts.output_size, strict=True))
            return {
                "image": pixels,
                **{f"{name}_in": resize_axis(a, b) for name, (a, b, _) in zip(("rows", "columns"), sides, strict=True)},
                **{
                    f"{name}_out": resize_axis(c, a) for name, (a, _, c) in zip(("rows", "columns"), sides, strict=True)
                },
            }
        inputs = {"image": padded(pixels, facts.stride)}
        if facts.track is not None:
            stride, full = facts.track["stride"], inputs["image"].shape[-2:]
            windows = tiles(grid_of(size, stride), facts.track["size_mask_neighborhood"])
            return inputs | cuts(size, (full[0], full[1]), stride) | windows
        if facts.reads == "cells":
            whole = (inputs["image"].shape[-2], inputs["image"].shape[-1])
            step = step_of(size, facts.cells, facts.cell_stride)
            inputs |= cell_inputs(size, whole, step, facts.filter_radius)
        return inputs

    def _check_calibration(self, patches: Array, strict: bool) -> None:
        """Compare how an int8 model's deepest map varies with how it does on the calibration images."""
        calibration = self.facts.quantisation
        # over fewer positions deviations are smaller: of an image that is much smaller they say nothing
        if calibration is None or 2 * patches[0, 0].size < calibration["positions"]:
            return
        scales = np.asarray(calibration["spreads"], dtype=np.float32)
        distance = float(np.linalg.norm(scales - spreads(patches[0]), axis=1).min()) / calibration["apart"]
        if distance > LIMIT:
            text = (
                f"the features of this image vary unlike those of each of the {len(scales)} calibration images: the "
                f"nearest is {distance:.1f} times as far as these are from one another (up to {LIMIT} is usual). int8 "
                "is often far from float32 there: calibrate with images like this one, or use the float32 file"
            )
            if strict:
                raise InputError(text)
            warnings.warn(text, OutsideCalibration, stacklevel=5)


def spreads(features: Array) -> Array:
    """Logarithms of the standard deviations of channels, float32 [C], of a map [C, h, w]."""
    logarithms: Array = np.log(features.std((1, 2)) + _FLOOR).astype(np.float32)
    return logarithms
