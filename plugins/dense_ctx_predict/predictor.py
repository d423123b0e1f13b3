"""Predictor: predictions of a fitted InContext or of a trained head, by the same methods."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx import InContext
from dense_ctx.config import Quantity
from dense_ctx.data.video import VIDEO_SUFFIXES, Video
from dense_ctx.errors import InputError, NotFittedError
from dense_ctx.gateway import gateway
from dense_ctx.images import ImageLike, check_batch, load
from dense_ctx.model import DenseModel
from dense_ctx.persistence import hub
from dense_ctx.persistence.links import refuse_local_links
from dense_ctx.visualize import Picture, palette

from .batches import Room, batches, decoded, results
from .head import output_of, read_head
from .queries import Query, expand

if TYPE_CHECKING:
    from typing_extensions import Self

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class LabelClass:
    """A class: its id in masks, its name, and its colour (R, G, B), each 0 to 255."""

    id: int
    name: str
    colour: Colour


class Predictor:
    """Predicts classes, depth, normals or values for images, folders and videos; saved to a folder or a Hub repository.

    Args:
        source: a fitted InContext, or a model with a trained head (`dense-ctx train`, for example with MAXA).
        task: "depth" or "normals" for an InContext fitted to such values, which is "regression" by default. Otherwise
            the source determines the task.
        names: label id -> name; default "background" for 0, "class 7" for 7. A head has its own names.
        colours: label id -> (R, G, B); default the VOC palette.

    Attributes:
        task: "segmentation", "depth", "normals" or "regression".
        classes: in the order of the score channels; () unless the task is segmentation.
        model: the DenseModel.
        context: the InContext; None for a trained head.

    Raises:
        NotFittedError: the InContext is not fitted.
        ConfigError: the model has no trained head.
        InputError: a task, name or colour that does not match the source.
    """

    @gateway
    def __init__(
        self,
        source: InContext | DenseModel,
        task: Quantity | None = None,
        names: Mapping[int, str] | None = None,
        colours: Mapping[int, Colour] | None = None,
    ) -> None:
        self.context = source if isinstance(source, InContext) else None
        self.model: DenseModel = source.model if isinstance(source, InContext) else source
        kind, ids, own = _described(source)
        if task is not None and task != kind and not (kind == "regression" and task in ("depth", "normals")):
            raise InputError(f"task={task!r}, but the source predicts {kind}")
        self.task: Quantity = task or kind
        channels = source.targets_.channels if isinstance(source, InContext) else 0
        if (count := {"depth": 1, "normals": 3}.get(self.task, channels)) != channels and channels:
            raise InputError(f"{self.task} has {count} channel(s); the context was fitted on {channels}")
        table = palette(max([255, *ids]) + 1)
        names, colours = {**own, **(names or {})}, colours or {}
        if strange := sorted({*names, *colours} - {*ids}):
            raise InputError(
                f"No class has the id {strange[0]}; there are {', '.join(map(str, sorted(ids))) or 'none'}"
            )
        self.classes = tuple(LabelClass(i, names[i], _colour(colours.get(i, table[i].tolist()))) for i in ids)

    @property
    def colours(self) -> Picture:
        """Colour table by label id, uint8 [N, 3], N at least 256."""
        table = palette(max([255, *(item.id for item in self.classes)]) + 1)
        for item in self.classes:
            table[item.id] = item.colour
        return table

    @gateway
    def scores(self, image: ImageLike, max_memory: str | int | None = None) -> Tensor:
        """Class probabilities in the order of `classes`, or values: float32 [K, H, W] at the image's size.

        Args:
            image: path, PIL image, array or tensor, see `dense_ctx.images.load`; a batch [B, 3, H, W] gives [B, ...].
            max_memory: as for `InContext.predict`; a head resizes images to one size and ignores it.

        Raises:
            FileError, InputError: the image cannot be read.
            NonFiniteError: the features or predictions hold NaN or infinity.
        """
        if self.context is None:
            if isinstance(image, Tensor) and image.ndim == 4:
                return read_head(self.model, check_batch(image)).cpu()
            return read_head(self.model, load(image)[None])[0].cpu()
        if self.task == "segmentation":
            return torch.as_tensor(self.context.predict_proba(image, max_memory)).cpu()
        values = torch.as_tensor(self.context.predict(image, max_memory)).cpu()
        return functional.normalize(values, dim=-3) if self.task == "normals" else values

    @gateway
    def predict(self, source: Any, max_memory: str | int | None = None) -> Any:
        """Label ids int64 [H, W], or values float32 [K, H, W]: depth in metres (K = 1), unit normals (K = 3), others.

        Args:
            source: an image (path, PIL, array, tensor); a batch [B, 3, H, W], which gives [B, ...]; a list, which gives
                a list; a `Video` or the path of a video file, which gives an iterator over its frames; a folder, which
                gives an iterator of (path, prediction) over the images in it and its subfolders. Files are read ahead;
                beside CUDA consecutive images of a folder that have one size are a batch (`batches`).
            max_memory: as for `scores`.

        Raises:
            FileError, InputError: an image cannot be read.
        """
        if isinstance(source, (list, tuple)):
            return [self.predict(item, max_memory) for item in source]
        if isinstance(source, (str, os.PathLike)):
            path = Path(source)
            if path.is_dir():
                return self._folder(path, max_memory)
            if path.suffix.lower() in VIDEO_SUFFIXES:
                source = Video(path)
        if isinstance(source, Video):
            return self._frames(source, max_memory)
        scores = self.scores(source, max_memory)
        return torch.tensor([c.id for c in self.classes])[scores.argmax(-3)] if self.task == "segmentation" else scores

    def _folder(self, folder: Path, max_memory: str | int | None) -> Iterator[tuple[Path, Any]]:
        def read(query: Query) -> Tensor | Path:
            return query.path if query.clip else load(query.path)

        def predictions(queries: list[Query]) -> Iterator[tuple[Path, Any]]:
            for some in batches(self.model, queries, read, self.room(max_memory)):
                images = [image for _, image in some]
                each = results(images, self.predict, lambda image: self.predict(image, max_memory))
                yield from zip((query.path for query, _ in some), each, strict=True)

        return predictions(expand([folder]))  # an empty folder is refused at the call, not at the first item

    def _frames(self, video: Video, max_memory: str | int | None) -> Iterator[Any]:
        return (self.predict(frame, max_memory) for frame in decoded(video))

    def room(self, max_memory: str | int | None = None) -> Room:
        """How many images of one size are predicted at once."""
        return Room(self.model, max_memory, len(self.classes) or 3)

    @gateway
    def save(self, folder: str | os.PathLike[str], **options: Any) -> Path:
        """Save to a folder for `from_pretrained`, atomically.

        Args:
            options: license, metrics, standalone, dtype; see `DenseModel.save_pretrained`.

        Raises:
            ConfigError: the model was built from modules, which a configuration cannot name.
            FileError: the folder cannot be written.
        """
        from . import files

        return files.save(self, Path(folder), options)

    @classmethod
    @gateway
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], **options: Any) -> Self:
        """Load from a folder or a Hub repository "owner/name".

        Args:
            options: revision, cache_dir, local_files_only, token, allow, device, dtype: see
                `dense_ctx.persistence.hub.load`, whose errors it raises. probe: options of the probe in place of the
                folder's, such as {"embeddings": FILE}; a folder may name no file (`Probe.file_args`).

        Raises:
            ConfigError: the model has no trained head; an option that may not come from a folder.
            InputError: `probe` for a trained head, or an option that its probe does not take.
        """
        from . import files

        predictor: Self = files.open_predictor(cls, name_or_path, **options)
        return predictor

    @gateway
    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Publish to "owner/name" in one commit; an existing model card is kept. Returns the commit's URL.

        Args:
            options: private, token, branch, commit_message: see `dense_ctx.persistence.hub.push`; others as `save`.

        Raises:
            WeightsError: no access, or no connection.
            ConfigError: the model is built on a local model, and `standalone` is not set.
        """
        refuse_local_links(self.model, bool(options.get("standalone")))
        return hub.push(self.save, repo_id, **{"commit_message": "Upload a dense_ctx predictor", **options})


def _described(source: InContext | DenseModel) -> tuple[Quantity, list[int], dict[int, str]]:
    """Task, label ids in the order of the score channels, and their names."""
    if isinstance(source, InContext):
        if source.probe_ is None or source.task_ is None:
            raise NotFittedError("The context is not fitted: call fit(images, targets) first")
        ids = list(source.classes_)
        binary = source.targets_.binary and set(ids) <= {0, 1}
        other = "foreground" if binary else "class {}"
        return source.task_, ids, {i: other.format(i) if i else "background" for i in ids}
    output = output_of(source)
    return output.task, list(range(len(output.classes))), dict(enumerate(output.classes))


def _colour(colour: Any) -> Colour:
    if len(colour) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in colour):
        raise InputError(f"A colour is (R, G, B), whole numbers from 0 to 255; got {colour!r:.60}")
    red, green, blue = colour
    return red, green, blue
