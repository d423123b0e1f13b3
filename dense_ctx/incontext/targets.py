"""Targets of annotated examples: masks as class indices, arrays as values; ambiguous input is refused."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..files import read_array
from ..images import load_mask, open_image
from ..interfaces import Size, Task

IgnoreIndex: TypeAlias = int | Literal["auto"] | None

WHITE = 255  # of a black and white mask, and the usual "not annotated"
_FEW = 64  # values of an 8-bit picture that may be classes without anyone saying so
_WHOLE = 32  # whole numbers among floats that may be classes as well


class TargetReader:
    """Reads the targets of one fit, which agree in task, classes and channels.

    Args:
        task: "segmentation", "regression" or None: told by the first target.
        ignore_index: the mask value that means "not annotated"; None: there is none; "auto": 255, but where a mask
            holds 0 and 255 alone, these are background and foreground, classes 0 and 1.

    Attributes:
        classes: label ids in the order of the indices. channels: of regression targets.
        binary: whether 255 is the foreground (True) or "not annotated" (False); None: not met yet.
        values: of all masks so far, with those that are ignored.
    """

    def __init__(self, task: Task | None, ignore_index: IgnoreIndex) -> None:
        self.task, self.ignore_index = task, ignore_index
        self.classes: list[int] = []
        self.channels = 0
        self.binary: bool | None = None
        self.values: set[int] = set()

    def read(self, target: Any, size: Size) -> Tensor:
        """A target of an image of `size` as a probe takes it: int64 [1, H, W] of class indices, or float [1, K, H, W].

        Raises:
            InputError: of another size or kind than the others, ambiguous, or without an annotated pixel.
            FileError: a file that cannot be read.
        """
        name = f"The mask {target}" if isinstance(target, (str, os.PathLike)) else "The mask"
        values = _loaded(target, name)
        if self.task is None:
            self.task = _task_of(values, name)
        if self.task == "segmentation":
            return self._classes(load_mask(values, size, name), name)
        return self._values(values, size)

    def require_two_classes(self) -> None:
        """Refuse a segmentation with a single class, which would be predicted everywhere."""
        if self.task != "segmentation" or len(self.classes) != 1:
            return
        held = f"The masks leave one class, {self.classes[0]}: they hold {', '.join(map(str, sorted(self.values)))}"
        if ignored := self.values - {*self.classes}:
            way = "leave ignore_index out (0 and 255 alone are then background and foreground)"
            if self.values != {0, WHITE} or self.ignore_index == "auto":
                way = "say so: ignore_index=None"
            raise InputError(
                f"{held}, and {ignored.pop()} means not annotated. If it is a class, {way}; if it is not, annotate a "
                "second class (the background is one)"
            )
        raise InputError(f"{held}. Annotate a second class (the background is one), or add an image that shows one")

    def _classes(self, mask: Tensor, name: str) -> Tensor:
        ids = mask.unique().tolist()
        if self.ignore_index == "auto" and WHITE in ids:
            if ids[-1] > WHITE:
                raise InputError(
                    f"{name} has ids up to {ids[-1]} and holds {WHITE}, which is ignored by default. Say which you "
                    f"mean: ignore_index=None if {WHITE} is a class, or the id to ignore"
                )
            ids, mask = self._white(ids, mask, name)
        ignored = WHITE if self.ignore_index == "auto" else self.ignore_index
        self.values.update(ids)
        ids = [label for label in ids if label != ignored]
        if not ids:
            raise InputError(f"{name} is empty: every pixel is {ignored}, which is ignored; a class? ignore_index=None")
        self.classes += [label for label in ids if label not in self.classes]
        encoded = torch.full_like(mask, -1)
        for label in ids:
            encoded[mask == label] = self.classes.index(label)
        return encoded[None]

    def _white(self, ids: list[int], mask: Tensor, name: str) -> tuple[list[int], Tensor]:
        """What 255 means: with 0 alone the foreground, beside other ids "not annotated"; never both in one fit."""
        binary = ids == [0, WHITE] or (ids == [WHITE] and self.binary is True)
        if self.binary is not None and binary != self.binary:
            raise InputError(
                f"{name} holds {' and '.join(map(str, ids[-2:]))}, and in another mask {WHITE} means "
                f"{'not annotated' if binary else 'foreground, as it holds 0 and 255 alone'}. Say which you mean: "
                f"ignore_index={WHITE} if it is not annotated, ignore_index=None if it is a class"
            )
        if not binary:
            self.binary = False
            return ids, mask
        if self.binary is None:
            self.binary = True
            warnings.warn(
                f"{name} holds 0 and 255 alone: read as background (0) and foreground (1), as in all masks of this "
                f"fit. If 255 means not annotated, say ignore_index={WHITE} (--ignore-index {WHITE})",
                stacklevel=2,
            )
        mask = torch.where(mask == WHITE, 1, mask)
        return mask.unique().tolist(), mask

    def _values(self, given: Any, size: Size) -> Tensor:
        if not isinstance(given, Tensor):
            raise InputError(
                "Regression targets are float arrays, tensors or .npy files, not pictures; of 16-bit depth "
                "dense_ctx_datasets.geometric_files.read_depth makes one"
            )
        values = given.float()
        if values.ndim == 2:
            values = values[None]
        if values.ndim != 3 or tuple(values.shape[1:]) != size:
            raise InputError(
                f"A regression target is [H, W] or [K, H, W] of the image's size {list(size)}; got {list(values.shape)}"
            )
        if bool(values.isinf().any()):
            raise InputError("The target holds infinity; a pixel whose value is not known is NaN")
        if not bool(values.isfinite().all(0).any()):
            raise InputError("The target holds no finite value: every pixel is NaN or infinite")
        if self.channels and len(values) != self.channels:
            raise InputError(f"The target has {len(values)} channels; earlier ones had {self.channels}")
        self.channels = len(values)
        return values[None]


def _loaded(target: Any, name: str) -> Any:
    """A picture opened, an array of floats as a tensor; all else as it is."""
    if isinstance(target, (str, os.PathLike)):
        suffix = Path(target).suffix.lower()
        if suffix == ".npy":
            target = read_array(Path(target))
        elif suffix in (".jpg", ".jpeg"):
            raise InputError(f"{name} is a JPEG, which changes values: save the mask as PNG")
        else:
            return open_image(target)
    if isinstance(target, np.ndarray) and np.issubdtype(target.dtype, np.floating):
        return torch.from_numpy(np.ascontiguousarray(target))
    return target


def _task_of(values: Any, name: str) -> Task:
    """Infer the task from a target."""
    if isinstance(values, Tensor) and values.is_floating_point():
        return _task_of_floats(values, name)
    bits = _bits(values)
    if bits:
        ids = np.unique(np.asarray(values))
        if bits == 16 and ids[-1] > WHITE:
            raise InputError(
                f"{name} is a 16-bit picture of {len(ids)} values up to {ids[-1]}: depth, or classes? Depth: "
                "`dense-ctx predict --task depth`, or dense_ctx_datasets.geometric_files.read_depth; classes: "
                "task='segmentation'"
            )
        if len(ids) > _FEW:
            raise InputError(
                f"{name} is an 8-bit picture of {len(ids)} values: a photo, or a mask with soft or compressed edges? "
                "Draw it without anti-aliasing; if they are classes all the same, say task='segmentation'"
            )
    return "segmentation"


def _task_of_floats(values: Tensor, name: str) -> Task:
    several = values.ndim == 3 and values.shape[0] > 1
    if several or not bool((values == values.round()).all() & values.isfinite().all()):  # no mask has NaN
        return "regression"
    ids = values.unique().tolist()
    if set(ids) <= {0, 1}:
        warnings.warn(f"{name} holds floats 0 and 1 alone: read as classes; values: task='regression'", stacklevel=2)
        return "segmentation"
    if len(ids) <= _WHOLE:
        listing = ", ".join(f"{label:g}" for label in ids[:6]) + (", ..." if ids[6:] else "")
        raise InputError(
            f"{name} holds floats that are whole numbers ({listing}): classes or values? Say task='segmentation' or "
            "task='regression'"
        )
    return "regression"


def _bits(values: Any) -> int:
    """16 or 8 of a grey picture or an array of its type; 0 of a palette, of colours and of all else."""
    if isinstance(values, Image.Image):
        return 16 if values.mode.startswith("I") else 8 if values.mode == "L" else 0
    dtype = str(values.dtype) if isinstance(values, (np.ndarray, Tensor)) else ""
    return {"uint16": 16, "uint8": 8}.get(dtype.removeprefix("torch."), 0)
