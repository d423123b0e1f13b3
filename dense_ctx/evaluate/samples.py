"""From samples to a probe's input: resizing, augmentation, features on the protocol's grid."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path
from typing import TypeVar
from weakref import WeakSet

import torch
from torch import Tensor
from torch.nn import functional

from ..data.base import Sample
from ..errors import DenseCtxError, FileError, InputError, MemoryBudgetError, about
from ..files import MAX_JSON, read_text
from ..images import nearest, resized
from ..interfaces import DenseFeatures, Size
from ..model import DenseModel
from .protocol import Protocol
from .protocol import names as known
from .sections import Support, Train

T = TypeVar("T")

BATCH = 8  # images of one size that CUDA encodes at once
_crowded = WeakSet[DenseModel]()  # for a batch of which a device had no room


def model_size(size: Size, protocol: Protocol) -> Size:
    """(H, W) at which the model encodes an image of `size`."""
    spec = protocol.image
    if spec.size is not None:
        return spec.size[0], spec.size[1]
    if spec.short_side is None:
        return size
    scale = spec.short_side / min(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def grid_size(size: Size, grid: int) -> Size:
    """The feature grid (h, w) of an image of `size`."""
    return max(1, round(size[0] / grid)), max(1, round(size[1] / grid))


@torch.no_grad()
def extract(model: DenseModel, images: Tensor, protocol: Protocol) -> DenseFeatures:
    """Features of [B, 3, H, W] on the protocol's grid; `pixels` holds the maps that the probe reads."""
    size = grid_size((images.shape[-2], images.shape[-1]), protocol.grid)
    full = protocol.decode == "full" and protocol.reads != "patches"
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=protocol.precision == "bfloat16"):
        features: DenseFeatures = model(images, size=None if full else size)
    features = features.to(torch.float32)
    pixels = features.pixels
    if protocol.reads != "pixels" and protocol.train is None:  # probes trained by steps take both maps
        patches = features.on_pixels(features.patches)
        pixels = patches if protocol.reads == "patches" else torch.cat([pixels, patches], 1)
    return DenseFeatures(nearest(pixels, size), features.patches, features.cls, features.extent)


def together(model: DenseModel) -> int:
    """How many images are encoded at once, at most: a CPU is no faster by several."""
    return BATCH if model.device.type == "cuda" and model not in _crowded else 1


def encoded(
    model: DenseModel, items: Iterable[tuple[str, Tensor, T]], protocol: Protocol
) -> Iterator[tuple[T, DenseFeatures]]:
    """Features [1, ...] of images, as `extract` gives them: of neighbours of one size in a batch.

    A batch that fails is encoded image by image, so that the error names one; for want of memory the later ones too.

    Args:
        items: name, image [3, H, W], and what comes before its features in the result.
    """
    rest = iter(items)
    while some := list(islice(rest, together(model))):
        for _, run in groupby(some, lambda item: item[1].shape):
            batch, rows = list(run), None
            try:
                if len(batch) > 1:
                    rows = extract(model, torch.stack([image for _, image, _ in batch]), protocol)
            except MemoryBudgetError:
                _crowded.add(model)
            except DenseCtxError:
                pass  # of one of them
            for index, (name, image, other) in enumerate(batch):
                with about(name):
                    features = extract(model, image[None], protocol) if rows is None else _row(rows, index)
                yield other, features


def _row(batch: DenseFeatures, index: int) -> DenseFeatures:
    one, cls = slice(index, index + 1), batch.cls
    return DenseFeatures(batch.pixels[one], batch.patches[one], None if cls is None else cls[one], batch.extent)


def training_view(sample: Sample, protocol: Protocol, kind: str, seed: int) -> Sample:
    """Resize and augment a sample as the protocol says; the same seed gives the same pixels."""
    size = model_size((sample.image.shape[-2], sample.image.shape[-1]), protocol)
    train = protocol.train
    if protocol.support is not None and protocol.support.passes:
        return _augmented(sample, size, protocol.support, seed)
    draw = random.Random(seed)
    if train is not None and tuple(train.scale) != (1.0, 1.0):
        factor = draw.uniform(*train.scale)
        size = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
    image, target = resized(sample.image, size), nearest(sample.target, size)
    if train is not None and train.crop is not None:
        image, target = _crop(image, target, train.crop, draw)
    if train is not None and train.flip and draw.random() < 0.5:
        image, target = image.flip(-1), target.flip(-1)
        if kind == "normals":  # mirrored in x, as the surface is
            target = target * target.new_tensor([-1.0, 1.0, 1.0])[:, None, None]
    return replace(sample, image=image, target=target)


def _augmented(sample: Sample, size: Size, support: Support, seed: int) -> Sample:
    """A random resized crop of image and target, with colour jitter, as `Support` says."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    parts = ("brightness", "contrast", "saturation", "hue")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        image = v2.Compose([v2.RandomApply([v2.ColorJitter(**{part: support.jitter})]) for part in parts])(sample.image)
        crop = v2.RandomResizedCrop(size, support.scale, support.ratio)
        shape = sample.target.shape
        image, target = crop(image, tv_tensors.Mask(sample.target.reshape(-1, *shape[-2:])))
    target = target.as_subclass(Tensor).reshape(*shape[:-2], *size)
    return replace(sample, image=image.clamp(0, 1), target=target)


def read_lists(protocol: Protocol, root: Path, seeds: Sequence[int], names: Sequence[str]) -> dict[int, list[str]]:
    """The names of each seed's training images, without suffix; {} where the protocol has no lists.

    Raises:
        FileError: a list is missing. InputError: it names an image that is not in `names`, the data set's.
    """
    lists: dict[int, list[str]] = {}
    stems = {Path(name).stem for name in names}
    for seed in seeds if protocol.support is not None and protocol.support.names is not None else ():
        path = root / str(protocol.support.names).replace("{seed}", str(seed))  # type: ignore[union-attr]
        if not path.is_file():
            others = ", ".join(sorted(other.name for other in path.parent.glob("*.txt"))) or "no list"
            name, _, version = protocol.id.rpartition("-")
            seeded = f"{name}-seeded-{version}" if f"{name}-seeded-{version}" in known() else "support.names=null"
            raise FileError(
                f"{protocol.id}: the list of training images {path} is missing; its folder has {others}. Put it there, "
                f"or draw a share of {protocol.data.fraction:g} by seed, which is another evaluation: {seeded}"
            )
        listed = [Path(line.split()[0]).stem for line in read_text(path, MAX_JSON).splitlines() if line.strip()]
        unknown = [name for name in listed if name not in stems]
        if unknown or not listed:
            raise InputError(f"{path} names {len(listed)} images, {len(unknown)} not in the data set: {unknown[:3]}")
        lists[seed] = listed
    return lists


def _crop(image: Tensor, target: Tensor, size: Size, draw: random.Random) -> tuple[Tensor, Tensor]:
    height, width = image.shape[-2:]
    down, right = max(0, size[0] - height), max(0, size[1] - width)
    if down or right:
        image = functional.pad(image, (0, right, 0, down))
        blank = float("nan") if target.is_floating_point() else -1
        target = functional.pad(target, (0, right, 0, down), value=blank)
        height, width = image.shape[-2:]
    top, left = draw.randint(0, height - size[0]), draw.randint(0, width - size[1])
    window = (..., slice(top, top + size[0]), slice(left, left + size[1]))
    return image[window], target[window]


def training_target(target: Tensor, grid: Size, train: Train | None) -> Tensor:
    """The target of the probe's loss: the grid's cells for closed-form probes, every n-th pixel with `train`."""
    if train is None:
        return nearest(target, grid)
    if train.label_stride == 1:
        return target
    return nearest(target, grid_size((target.shape[-2], target.shape[-1]), train.label_stride))


def stack(items: list[Tensor], what: str) -> Tensor:
    """Join tensors of one shape.

    Raises:
        InputError: shapes differ.
    """
    shapes = {tuple(item.shape) for item in items}
    if len(shapes) > 1:
        raise InputError(
            f"{what} of one batch differ in size: {sorted(shapes)}. Set train.crop=[H,W] or image.size=[H,W] in the "
            "protocol"
        )
    return torch.stack(items)
