"""InContext: dense predictions from a few annotated images, with scikit-learn's methods and no training loop."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..errors import InputError, NotFittedError
from ..gateway import gateway
from ..images import ImageLike, check_batch, load
from ..interfaces import DenseFeatures, Probe, Task
from ..model_spec import DEFAULT_METHOD
from ..numerics import require_finite
from ..plugins import blamed, registry
from ..progress import steps
from ..tiling import map_tiles, plan, settled
from .targets import IgnoreIndex, TargetReader

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..model import DenseModel, ImageList


class InContext:
    """Predict masks, depth, normals or any dense quantity as annotated examples show it.

    Args:
        model: whose features are read.
        method: a registered probe: "ensemble" (`DEFAULT_METHOD`), "ridge" (closed form), "knn", "linear" ...
        task: "segmentation" or "regression"; default: integers (and mask files) are classes, floats are values. What
            could be either (16-bit pictures, floats that are whole numbers) is refused without it.
        ignore_index: the mask value that means "not annotated"; None: there is none; "auto": 255, but a mask of 0 and
            255 alone is black and white: classes 0 and 1, which a warning says. NaN means it in regression.
        **options: of the probe (`penalty=`, `k=` ...).

    A mask may be a few strokes: what is not annotated costs nothing. Support images are read one after the other:
    memory does not grow with their number. Fitted attributes: `classes_` (label ids in the order of the
    probabilities), `probe_`, `task_`.
    """

    @gateway
    def __init__(
        self,
        model: DenseModel,
        method: str = DEFAULT_METHOD,
        task: Task | None = None,
        ignore_index: IgnoreIndex = "auto",
        **options: Any,
    ) -> None:
        if task not in (None, "segmentation", "regression"):
            raise InputError(f"task={task!r} is not 'segmentation' or 'regression'")
        if isinstance(ignore_index, bool) or not (ignore_index in (None, "auto") or isinstance(ignore_index, int)):
            raise InputError(f"ignore_index={ignore_index!r:.60} is not a mask value, None or 'auto'")
        registry().bind("probe", method, **options)  # an unknown name or option fails here, not after the first image
        self.model = model
        self.method = method
        self.task = task
        self.ignore_index = ignore_index
        self.options = options
        self._reset()

    def _reset(self) -> None:
        self.targets_ = TargetReader(self.task, self.ignore_index)
        self.probe_: Probe | None = None

    @property
    def task_(self) -> Task | None:
        """The task; None before `fit` if it was not given."""
        return self.targets_.task

    @property
    def classes_(self) -> list[int]:
        """Label ids in the order of the probabilities."""
        return self.targets_.classes

    @gateway
    def fit(self, images: ImageLike | ImageList, targets: Any, max_memory: str | int | None = None) -> Self:
        """Learn from annotated images, forgetting earlier ones.

        Args:
            images: one image or a list (paths, PIL, arrays, tensors; any sizes).
            targets: one for each image, of its size. Segmentation: a mask file, PIL image or integer array [H, W].
                Regression: float [H, W] or [K, H, W] (depth, normals), or a .npy file.
            max_memory: tile large images to stay within it.

        Raises:
            InputError: numbers or sizes that differ, nothing annotated, a single class, targets of two kinds or of one
                that is ambiguous.
            FileError: a file that cannot be read.
        """
        self._reset()
        self.partial_fit(images, targets, max_memory)
        self.targets_.require_two_classes()
        return self

    @torch.inference_mode()
    @gateway
    def partial_fit(self, images: ImageLike | ImageList, targets: Any, max_memory: str | int | None = None) -> Self:
        """Learn from more images on top; new classes may appear. A prediction needs two."""
        if isinstance(images, (list, tuple)):
            if not isinstance(targets, (list, tuple)) or len(images) != len(targets):
                count = len(targets) if isinstance(targets, (list, tuple)) else f"a {type(targets).__name__}"
                raise InputError(f"{len(images)} images need as many targets, in a list; got {count}")
            if not images:
                raise InputError("No support images: expected at least one annotated image")
            for image, target in zip(images, targets, strict=True):
                self._learn(image, target, max_memory)
        else:
            self._learn(images, targets, max_memory)
        return self

    def _learn(self, image: ImageLike, target: Any, max_memory: str | int | None) -> None:
        pixels = _batch(image)
        if len(pixels) > 1:
            raise InputError(f"fit takes one image for a target, or a list of each; got {list(pixels.shape)}")
        size = (pixels.shape[-2], pixels.shape[-1])
        reader = deepcopy(self.targets_)
        encoded = reader.read(target, size)
        probe = self.probe_
        if probe is None:
            probe = cast(Probe, registry().create("probe", self.method, task=reader.task, **self.options))
        if max_memory is None:
            features = self.model(pixels)
            self.targets_, self.probe_ = reader, probe  # not before: what cannot be learnt leaves no class behind
            self._fit(probe, features, encoded)
            return
        windows = settled(self.model, pixels, plan(self.model, size, max_memory), max_memory)
        self.targets_, self.probe_ = reader, probe
        for (rows, columns), (own_rows, own_columns) in steps(windows.shares(), len(windows), "windows"):
            # each pixel is learnt from once, in the window where it is farthest from a border
            part = torch.full_like(encoded, -1 if encoded.dtype == torch.int64 else torch.nan)
            part[..., own_rows, own_columns] = encoded[..., own_rows, own_columns]
            part = part[..., rows, columns]
            if bool((part >= 0).any() if part.dtype == torch.int64 else part.isfinite().any()):
                self._fit(probe, self.model(pixels[:, :, rows, columns]), part)

    def _fit(self, probe: Probe, features: DenseFeatures, targets: Tensor) -> None:
        with blamed("probe", self.method):
            probe.partial_fit(features, targets)

    @gateway
    def predict(self, images: ImageLike | ImageList, max_memory: str | int | None = None) -> Any:
        """Label ids, int64 [H, W], or values, float [K, H, W], on the CPU; a list for a list, [B, ...] for a batch.

        Raises:
            NotFittedError: before `fit`. InputError: a single class was annotated.
        """
        if isinstance(images, (list, tuple)):
            return [self.predict(image, max_memory) for image in images]
        scores = self._scores(images, max_memory)
        return scores if self.task_ == "regression" else torch.tensor(self.classes_)[scores.argmax(-3)]

    @gateway
    def predict_proba(self, images: ImageLike | ImageList, max_memory: str | int | None = None) -> Any:
        """Class probabilities, float [K, H, W], in the order of `classes_`, on the CPU; of several as `predict`.

        Raises:
            NotFittedError: before `fit`.
            InputError: after fitting a regression.
        """
        if isinstance(images, (list, tuple)):
            return [self.predict_proba(image, max_memory) for image in images]
        if self.task_ == "regression":
            raise InputError("A regression has no class probabilities; use predict")
        return self._scores(images, max_memory)

    @torch.inference_mode()
    def _scores(self, image: Any, max_memory: str | int | None) -> Tensor:
        probe = self.probe_
        if probe is None:
            raise NotFittedError("predict needs examples first: call fit(images, targets)")
        self.targets_.require_two_classes()
        pixels = _batch(image)
        if max_memory is None:
            scores = self._read(probe, self.model(pixels))
        else:
            size, channels = (pixels.shape[-2], pixels.shape[-1]), len(self.classes_) or self.targets_.channels
            windows = plan(self.model, size, max_memory, channels, batch=len(pixels))
            windows = settled(self.model, pixels, windows, max_memory)
            scores = map_tiles(self.model, pixels, lambda features: self._read(probe, features), windows)
        return (scores if isinstance(image, Tensor) and image.ndim == 4 else scores[0]).cpu()

    def _read(self, probe: Probe, features: DenseFeatures) -> Tensor:
        with blamed("probe", self.method):
            prediction = probe.predict(features)
        if self.task_ == "segmentation" and prediction.shape[1] != len(self.classes_):
            count = f"predicts {prediction.shape[1]} classes, and the masks hold {len(self.classes_)}"
            raise InputError(f"The probe {self.method!r} {count}: annotate each, or limit its classes to theirs")
        require_finite(f"The prediction of the probe {self.method!r}", "Fit it again", values=prediction)
        return prediction


def _batch(image: Any) -> Tensor:
    """[B, 3, H, W] of one image, or of a batch."""
    return check_batch(image) if isinstance(image, Tensor) and image.ndim == 4 else load(image)[None]
