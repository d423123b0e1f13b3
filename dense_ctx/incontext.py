"""InContext: dense predictions from a few annotated images, with scikit-learn's verbs and no training loop."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from .config import typed
from .create import create_part
from .errors import CheckpointError, FileError, InputError, NotFittedError, about
from .files import state_digest, write_json, write_tensors
from .gateway import gateway
from .images import ImageLike, check_batch, load, load_mask
from .interfaces import DenseFeatures, Probe, Task
from .numerics import preserve_generators, require_finite
from .persistence.artefact import Artefact, read_object
from .persistence.links import opened
from .persistence.tensors import load_probe, read_state, stored
from .plugins import blamed, registry
from .tiling import map_tiles, plan, settled

if TYPE_CHECKING:
    from typing_extensions import Self

    from .model import DenseModel, ImageList

_DEFAULT_IGNORE = 255
CONTEXT = Artefact("fitted InContext", ("probe.json", "probe.safetensors"))


class InContext:
    """Predict masks, depth, normals or any dense quantity as annotated examples show it.

    Args:
        model: whose features are read.
        method: "ridge" (closed form, the default), "knn", "linear", or any registered probe.
        task: "segmentation" or "regression"; default: integers (and mask files) are classes, floats are values.
        ignore_index: the mask value that means "not annotated"; None for none. NaN means it in regression.
        **options: of the probe (`penalty=`, `k=` ...).

    Support images are read one after the other: memory does not grow with their number. Fitted attributes: `classes_`
    (label ids in the order of the probabilities), `probe_`, `task_`.
    """

    @gateway
    def __init__(
        self,
        model: DenseModel,
        method: str = "ridge",
        task: Task | None = None,
        ignore_index: int | None = _DEFAULT_IGNORE,
        **options: Any,
    ) -> None:
        if task not in (None, "segmentation", "regression"):
            raise InputError(f"task={task!r} is not 'segmentation' or 'regression'")
        registry().bind("probe", method, **options)  # an unknown name or option fails here, not after the first image
        self.model = model
        self.method = method
        self.task = task
        self.ignore_index = ignore_index
        self.options = options
        self._reset()

    def _reset(self) -> None:
        self.task_: Task | None = self.task
        self.classes_: list[int] = []
        self.channels_ = 0
        self.probe_: Probe | None = None

    @gateway
    def fit(self, images: ImageLike | ImageList, targets: Any, max_memory: str | int | None = None) -> Self:
        """Learn from annotated images, forgetting earlier ones.

        Args:
            images: one image or a list (paths, PIL, arrays, tensors; any sizes).
            targets: one for each image, of its size. Segmentation: a mask file, PIL image or integer array [H, W].
                Regression: float [H, W] or [K, H, W] (depth, normals), or a .npy file.
            max_memory: tile large images to stay within it.

        Raises:
            InputError: numbers or sizes that differ, nothing annotated, targets of two kinds.
            FileError: a file that cannot be read.
        """
        self._reset()
        return self.partial_fit(images, targets, max_memory)

    @torch.inference_mode()
    @gateway
    def partial_fit(self, images: ImageLike | ImageList, targets: Any, max_memory: str | int | None = None) -> Self:
        """Learn from more images on top; new classes may appear."""
        if isinstance(images, (list, tuple)):
            if not isinstance(targets, (list, tuple)) or len(images) != len(targets):
                given = len(targets) if isinstance(targets, (list, tuple)) else f"a {type(targets).__name__}"
                raise InputError(f"{len(images)} images need as many targets, in a list; got {given}")
            if not images:
                raise InputError("No support images: expected at least one annotated image")
            for image, target in zip(images, targets, strict=True):
                self._learn(image, target, max_memory)
        else:
            self._learn(images, targets, max_memory)
        return self

    def _learn(self, image: ImageLike, target: Any, max_memory: str | int | None) -> None:
        pixels = _one(image)
        size = (pixels.shape[-2], pixels.shape[-1])
        encoded = self._encode(target, size)
        if self.probe_ is None:
            self.probe_ = cast(Probe, registry().create("probe", self.method, task=self.task_, **self.options))
        if max_memory is None:
            self._fit(self.probe_, self.model(pixels), encoded)
            return
        windows = settled(self.model, pixels, plan(self.model, size, max_memory), max_memory)
        for (rows, columns), (own_rows, own_columns) in windows.shares():
            # each pixel is learnt from once, in the window where it is farthest from a border
            part = torch.full_like(encoded, -1 if encoded.dtype == torch.int64 else torch.nan)
            part[..., own_rows, own_columns] = encoded[..., own_rows, own_columns]
            part = part[..., rows, columns]
            if bool((part >= 0).any() if part.dtype == torch.int64 else part.isfinite().any()):
                self._fit(self.probe_, self.model(pixels[:, :, rows, columns]), part)

    def _fit(self, probe: Probe, features: DenseFeatures, targets: Tensor) -> None:
        with blamed("probe", self.method):
            probe.partial_fit(features, targets)

    def _encode(self, target: Any, size: tuple[int, int]) -> Tensor:
        """A target as the probe takes it: int64 [1, H, W] of class indices, or float [1, K, H, W]."""
        values = _values(target)
        floats = isinstance(values, Tensor) and values.is_floating_point()
        task: Task = self.task_ or ("regression" if floats else "segmentation")
        if self.task_ is None:
            self.task_ = task
        if task == "segmentation":
            return self._classes(load_mask(values, size))
        if not isinstance(values, Tensor):
            raise InputError("Regression targets are float arrays, tensors or .npy files, not pictures")
        values = values.float()
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
        if self.channels_ and len(values) != self.channels_:
            raise InputError(f"The target has {len(values)} channels; earlier ones had {self.channels_}")
        self.channels_ = len(values)
        return values[None]

    def _classes(self, mask: Tensor) -> Tensor:
        ids = mask.unique().tolist()
        if self.ignore_index == _DEFAULT_IGNORE and _DEFAULT_IGNORE in ids and ids[-1] > _DEFAULT_IGNORE:
            raise InputError(
                f"The mask has ids up to {ids[-1]} and holds {_DEFAULT_IGNORE}, which is ignored by default. Say which "
                f"you mean: InContext(..., ignore_index=None) if {_DEFAULT_IGNORE} is a class, or the id to ignore"
            )
        ids = [label for label in ids if label != self.ignore_index]
        if not ids:
            raise InputError(f"The mask is empty: every pixel is {self.ignore_index}, which is ignored")
        self.classes_ += [label for label in ids if label not in self.classes_]
        encoded = torch.full_like(mask, -1)
        for label in ids:
            encoded[mask == label] = self.classes_.index(label)
        return encoded[None]

    @gateway
    def predict(self, images: ImageLike | ImageList, max_memory: str | int | None = None) -> Any:
        """Label ids, int64 [H, W], or values, float [K, H, W], at each image's size, on the CPU; a list for a list.

        Raises:
            NotFittedError: before `fit`.
        """
        if isinstance(images, (list, tuple)):
            return [self.predict(image, max_memory) for image in images]
        scores = self._scores(images, max_memory)
        return scores if self.task_ == "regression" else torch.tensor(self.classes_)[scores.argmax(0)]

    @gateway
    def predict_proba(self, images: ImageLike | ImageList, max_memory: str | int | None = None) -> Any:
        """Class probabilities, float [K, H, W], in the order of `classes_`, on the CPU; a list for a list.

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
        pixels = _one(image)
        if max_memory is None:
            return self._read(probe, self.model(pixels))[0].cpu()
        channels = len(self.classes_) or self.channels_
        windows = plan(self.model, (pixels.shape[-2], pixels.shape[-1]), max_memory, channels)
        windows = settled(self.model, pixels, windows, max_memory)

        return map_tiles(self.model, pixels, lambda features: self._read(probe, features), windows)[0].cpu()

    def _read(self, probe: Probe, features: DenseFeatures) -> Tensor:
        with blamed("probe", self.method):
            prediction = probe.predict(features)
        require_finite(f"The prediction of the probe {self.method!r}", "Fit it again", values=prediction)
        return prediction

    @gateway
    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write what was learnt (probe.safetensors, probe.json, manifest.json), not the model; whole or not at all.

        Raises:
            NotFittedError: before `fit`.
            NonFiniteError: NaN or infinity in it.
            FileError: the folder holds something else, another process is writing it, or it cannot be written.
        """
        if self.probe_ is None:
            raise NotFittedError("Nothing to save: call fit first")
        folder = Path(folder)
        facts = _Facts(
            self.method, cast(Task, self.task_), self.options, self.ignore_index, tuple(self.classes_), self.channels_,
            self._outputs(self.probe_), _identity(self.model),
        )  # fmt: skip
        tensors = stored(self.probe_.state_dict())
        require_finite("The fitted probe, which is not saved", "Fit it again", **tensors)

        def fill(partial: Path) -> None:
            write_tensors(partial / "probe.safetensors", tensors)
            write_json(partial / "probe.json", asdict(facts))

        CONTEXT.write(folder, fill)
        return folder

    @classmethod
    @gateway
    def load(cls, folder: str | os.PathLike[str], model: DenseModel, /, **options: Any) -> InContext:
        """Read back what `save` wrote, for the same model.

        Args:
            **options: of the probe, in place of those in the folder, which may name no file, folder or device.

        Raises:
            FileError: files missing.
            CheckpointError: damaged, saved with another model, or with tensors that are not this probe's.
            ConfigError: probe.json lacks a key, has one too many, or an option that may not come from a file.
            NonFiniteError: NaN or infinity in it.
        """
        folder = Path(folder)
        data, tensors = CONTEXT.read(
            folder, lambda part: read_object(part / "probe.json"), lambda part: read_state(part / "probe.safetensors")
        )
        facts = typed(_Facts, data, str(folder / "probe.json"))
        differing = _differing(facts.model, _identity(model))
        if differing:
            raise CheckpointError(
                f"{folder} was fitted on the features of another model: {'; '.join(differing)}. Load it with the model "
                "it was fitted with, or fit again"
            )
        with about(folder):
            require_finite("The fitted probe", "Fit it again", **tensors)
        from_file = {key: value for key, value in facts.options.items() if key not in options}
        with preserve_generators():
            with opened(folder):
                probe = cast(Probe, create_part("probe", facts.method, from_file, task=facts.task, **options))
            context = cls(model, facts.method, facts.task, facts.ignore_index, **from_file, **options)
            context.classes_, context.channels_ = list(facts.classes), facts.channels
            load_probe(probe, tensors, str(folder))
            outputs, values = context._outputs(probe), facts.channels if facts.task == "regression" else facts.outputs
            if {outputs} != {facts.outputs, values}:
                raise CheckpointError(f"{folder} predicts {outputs} channels; saved with {facts.outputs}, {values}")
        context.probe_ = probe
        return context

    def _outputs(self, probe: Probe) -> int:
        with torch.inference_mode():
            return probe.outputs(self.model.dim, self.model.backbone.dims[-1])


@dataclass(frozen=True)
class _Facts:
    """probe.json: all of a fitted context but tensors; `outputs` are channels, `model` what its features are of."""

    method: str
    task: Task
    options: Mapping[str, Any]
    ignore_index: int | None
    classes: tuple[int, ...]
    channels: int
    outputs: int
    model: Mapping[str, Any]


def _one(image: Any) -> Tensor:
    """[1, 3, H, W] of one image."""
    if isinstance(image, Tensor) and image.ndim == 4 and len(image) == 1:
        return check_batch(image)
    return load(image)[None]


def _values(target: Any) -> Any:
    if isinstance(target, (str, os.PathLike)) and Path(target).suffix.lower() == ".npy":
        try:
            target = np.load(target, allow_pickle=False)
        except FileNotFoundError:
            raise FileError(f"No target at {target}") from None
        except (OSError, ValueError) as error:
            raise FileError(f"{target} is not an array numpy can read without pickle: {error}") from error
    if isinstance(target, np.ndarray) and np.issubdtype(target.dtype, np.floating):
        return torch.from_numpy(np.ascontiguousarray(target))
    return target


def _identity(model: DenseModel) -> dict[str, Any]:
    """What must agree for features to mean the same."""
    config = model.model_config
    return {
        "backbone": type(model.backbone).__name__ if config is None else config.backbone.name,
        "decoder": type(model.decoder).__name__,
        "decoder_args": None if config is None else config.to_dict()["decoder"]["args"],
        "strides": list(model.backbone.strides),
        "dim": model.dim,
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights": state_digest(model.state_dict()),
    }


def _differing(saved: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """Each value that differs.

    The digest of the weights depends on their dtype: with the same dtype it tells more than the backbone's name, which
    may be a path; with another it is left out. A model made of modules does not know its decoder's arguments.
    """
    left_out = {"dtype", "backbone" if saved.get("dtype") == identity["dtype"] else "weights"}
    if saved.get("decoder_args") is None or identity["decoder_args"] is None:
        left_out.add("decoder_args")
    pairs = {key: (saved.get(key), value) for key, value in identity.items() if key not in left_out}
    return [f"{key} was {before!r}, is {now!r}" for key, (before, now) in pairs.items() if before != now]
