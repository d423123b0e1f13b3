"""Propagate a mask through a clip with the registered probe "propagation" (local k-nearest neighbours)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dense_ctx.errors import InputError, about
from dense_ctx.gateway import gateway
from dense_ctx.images import ImageLike, load, load_mask, nearest
from dense_ctx.interfaces import DenseFeatures, Probe
from dense_ctx.numerics import assuming, require_finite
from dense_ctx.plugins import blamed, registry

if TYPE_CHECKING:
    from dense_ctx.model import DenseModel


@torch.no_grad()
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
    max_memory: str | int | None = None,
) -> Iterator[Tensor]:
    """Propagate the first frame's mask through a clip, one frame at a time.

    Memory does not grow with the clip: it holds features of nine frames on the grid and one frame at full size.

    Args:
        model: its pixel features are computed on a grid with one cell per `stride` pixels.
        video: frames of one size: a `dense_ctx.data.video.Video`, or any iterable of images.
        first_mask: object ids of the first frame, [H, W]; any ids, 0 usually the background.
        stride, n_last_frames, size_mask_neighborhood, topk, temperature: by default those of DINO's DAVIS evaluation.
        max_memory: as for `DenseModel.forward`.

    Yields:
        The object ids of each frame, int64 [H, W]; first `first_mask` itself.

    Raises:
        NonFiniteError: the features of a frame hold NaN or infinity.
        InputError: the mask has another size than the first frame or a single label, the frames differ in size, or
            the video has no frames.
    """
    if stride < 1:
        raise InputError(f"stride={stride} is not at least 1")
    probe: Probe = registry().create(
        "probe", "propagation", n_last_frames=n_last_frames, topk=topk, temperature=temperature,
        size_mask_neighborhood=size_mask_neighborhood, stride=stride,
    )  # fmt: skip
    size: tuple[int, int] | None = None
    ids = torch.empty(0)
    for number, frame in enumerate(video):
        with about(f"Frame {number}"):
            image = load(frame)
        height, width = image.shape[1:]
        grid = (max(1, round(height / stride)), max(1, round(width / stride)))
        if size is not None and (height, width) != size:
            raise InputError(
                f"Frame {number} is {height} x {width} (H x W); the first was {size[0]} x {size[1]}. One clip, one size"
            )
        if size is None:
            mask = load_mask(first_mask, (height, width))
            ids, indices = mask.unique(return_inverse=True)
            if len(ids) < 2:
                raise InputError(
                    f"The first mask holds only label {int(ids[0])}: nothing to track. Expected objects and background"
                )
            size = (height, width)
            with about(f"Frame {number}"):
                features: DenseFeatures = model(image, size=grid, max_memory=max_memory)
            with blamed("probe", "propagation"):
                probe.partial_fit(features, nearest(indices, grid)[None])
            yield mask
            continue
        with about(f"Frame {number}"):
            with assuming() as conditions:
                features = model(image, size=grid, max_memory=max_memory)
                with blamed("probe", "propagation"):
                    votes = probe.predict(features, size)[0]
                require_finite("The prediction of the probe 'propagation'", votes=votes)
                labels = votes.argmax(0)
            if conditions:  # an accelerator: they come to the host with the labels
                labels = torch.where(torch.stack(conditions).all(), labels, -1)
            labels = labels.cpu()
            if labels[0, 0] < 0:
                list(model(image, size=grid, max_memory=max_memory))
                require_finite("The prediction of the probe 'propagation'", votes=votes)
                labels = votes.argmax(0).cpu()
        yield ids[labels]
    if size is None:
        raise InputError("The video has no frames")
