"""Propagate a mask through a clip with the registered probe "propagation" (local k-nearest neighbours)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dense_ctx.errors import InputError, about
from dense_ctx.gateway import gateway
from dense_ctx.images import ImageLike, load, load_mask, nearest
from dense_ctx.interfaces import DenseFeatures, Probe, Size
from dense_ctx.numerics import assuming, require_finite
from dense_ctx.plugins import blamed, registry

if TYPE_CHECKING:
    from dense_ctx.model import DenseModel


@dataclass(frozen=True)
class Frame:
    """A frame's features on the grid of a `MaskTracker`, and its size (H, W)."""

    features: DenseFeatures
    size: Size


class MaskTracker:
    """Carries masks from frame to frame; several masks of one clip share the features of its frames.

    Args:
        model, stride, max_memory, and the settings of the probe: see `track`.

    Attributes:
        options: the settings of the probe by name.
    """

    @gateway
    def __init__(
        self, model: DenseModel, *, stride: int = 8, max_memory: str | int | None = None, n_last_frames: int = 7,
        size_mask_neighborhood: int = 12, topk: int = 5, temperature: float = 0.1, recall: float | None = None,
    ) -> None:  # fmt: skip
        if stride < 1:
            raise InputError(f"stride={stride} is not at least 1")
        self.model, self.stride, self.max_memory = model, stride, max_memory
        self.options: dict[str, Any] = {
            "n_last_frames": n_last_frames, "size_mask_neighborhood": size_mask_neighborhood, "topk": topk,
            "temperature": temperature, "recall": recall,
        }  # fmt: skip
        registry().bind("probe", "propagation", **self.options)

    @torch.no_grad()
    @gateway
    def frame(self, image: ImageLike) -> Frame:
        """The features of a frame. Raises as `dense_ctx.images.load`."""
        pixels = load(image)
        height, width = pixels.shape[1:]
        grid = (max(1, round(height / self.stride)), max(1, round(width / self.stride)))
        return Frame(self.model(pixels, size=grid, max_memory=self.max_memory), (height, width))

    @torch.no_grad()
    @gateway
    def start(self, frame: Frame, mask: ImageLike) -> Track:
        """Begin with a frame's mask, object ids [H, W].

        Raises:
            InputError: another size than the frame's, a single label, or objects that are all smaller than a cell; a
                warning says so of some.
        """
        values = load_mask(mask, frame.size)
        ids, indices = values.unique(return_inverse=True)
        if len(ids) < 2:
            raise InputError(
                f"The first mask holds only label {int(ids[0])}: nothing to track. Expected objects and background"
            )
        probe: Probe = registry().create("probe", "propagation", stride=self.stride, **self.options)
        grid = (frame.features.pixels.shape[-2], frame.features.pixels.shape[-1])
        cells = nearest(indices, grid)
        self._refuse_lost(ids, cells)
        with blamed("probe", "propagation"):
            probe.partial_fit(frame.features, cells[None])
        return Track(probe, values, ids)

    def _refuse_lost(self, ids: Tensor, cells: Tensor) -> None:
        """Objects that lie between the centres of all cells cannot be followed: a warning, or where none is left."""
        lost = [int(label) for index, label in enumerate(ids[1:], 1) if not bool((cells == index).any())]
        if not lost:
            return
        text = (
            f"object(s) {', '.join(map(str, lost[:5]))}{' ...' if lost[5:] else ''} of the first mask cover the centre "
            f"of no cell of {self.stride} pixels and cannot be followed: give a smaller stride"
        )
        if len(lost) == len(ids) - 1:
            raise InputError(text)
        warnings.warn(text, stacklevel=4)


class Track:
    """A mask on its way through a clip: each `step` is the next frame. mask: the first frame's, int64 [H, W]."""

    def __init__(self, probe: Probe, mask: Tensor, ids: Tensor) -> None:
        self.mask, self._probe, self._ids = mask, probe, ids

    @torch.no_grad()
    @gateway
    def step(self, frame: Frame) -> Tensor:
        """The object ids of the next frame, int64 [H, W].

        Raises:
            InputError: another size than the first frame's. NonFiniteError: features that are NaN or infinite.
        """
        size = (self.mask.shape[0], self.mask.shape[1])
        if frame.size != size:
            raise InputError(
                f"it is {frame.size[0]} x {frame.size[1]} (H x W); the first was {size[0]} x {size[1]}. One clip, one "
                "size"
            )
        with assuming() as conditions:
            with blamed("probe", "propagation"):
                votes = self._probe.predict(frame.features, size)[0]
            require_finite("The prediction of the probe 'propagation'", votes=votes)
        labels = votes.argmax(0)
        if conditions:  # an accelerator: they come to the host with the labels
            labels = torch.where(torch.stack(conditions).all(), labels, -1)
        labels = labels.cpu()
        if labels[0, 0] < 0:
            require_finite("The features", "Look at the weights, or use float32", pixels=frame.features.pixels)
            require_finite("The prediction of the probe 'propagation'", votes=votes)
            labels = votes.argmax(0).cpu()
        return self._ids[labels]

    @property
    def certainty(self) -> float:
        """Of the last step: of the object that is least sure, as the probe has it; 0 where one is not seen, 1 at first.

        The mean cosine between an object's cells and those that voted for them. The lowest id of the mask is no object.
        """
        return float(self._probe.certainty[1:].min())  # type: ignore[attr-defined]


@gateway
def track(
    model: DenseModel,
    video: Iterable[ImageLike],
    first_mask: ImageLike,
    *,
    stride: int = 8,
    n_last_frames: int = 7,
    size_mask_neighborhood: int = 12,
    topk: int = 5,
    temperature: float = 0.1,
    recall: float | None = None,
    report: Callable[[int, float], object] | None = None,
    max_memory: str | int | None = None,
) -> Iterator[Tensor]:
    """Propagate the first frame's mask through a clip, one frame at a time.

    Memory does not grow with the clip: it holds features of nine frames on the grid and one frame at full size.

    Args:
        model: its pixel features are computed on a grid with one cell per `stride` pixels.
        video: frames of one size: a `dense_ctx.data.video.Video`, or any iterable of images.
        first_mask: object ids of the first frame, [H, W]; any ids, 0 usually the background.
        stride, n_last_frames, size_mask_neighborhood, topk, temperature: by default those of DINO's DAVIS evaluation.
        recall: 0.1 finds an object again that left the view: a cell takes the vote of the first frame's cells, wherever
            they lie, where they are nearer than those around it by this difference of mean cosines. None: never.
        report: called with each further frame's number and `Track.certainty`, before the frame is given.
        max_memory: as for `DenseModel.forward`.

    Yields:
        The object ids of each frame, int64 [H, W]; first `first_mask` itself.

    Raises:
        NonFiniteError: the features of a frame hold NaN or infinity.
        InputError: the mask has another size than the first frame, a single label, or only objects that are smaller
            than a cell; the frames differ in size, or the video has no frames.
    """
    tracker = MaskTracker(
        model, stride=stride, max_memory=max_memory, n_last_frames=n_last_frames, topk=topk, temperature=temperature,
        size_mask_neighborhood=size_mask_neighborhood, recall=recall,
    )  # fmt: skip
    going: Track | None = None
    for number, image in enumerate(video):
        with about(f"Frame {number}"):
            frame = tracker.frame(image)
            mask = None if going is None else going.step(frame)
            if going is not None and report is not None:
                report(number, going.certainty)
        if mask is None:
            going = tracker.start(frame, first_mask)
            mask = going.mask
        yield mask
    if going is None:
        raise InputError("The video has no frames")
