"""check_dataset: verify the contracts of `dense_ctx.data.DatasetReader` and of the sets that it opens."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any, get_args

import torch

from dense_ctx.data.base import Clip, DatasetReader, ImageSet, Kind, Layout, Sample, VideoSet, read_mask
from dense_ctx.data.open import list_with
from dense_ctx.errors import InputError
from dense_ctx.images import load
from dense_ctx.testing.common import Clauses, factory

Require = Callable[[bool, str], None]


def check_dataset(
    dataset: str | Callable[..., DatasetReader],
    root: str | os.PathLike[str],
    *,
    split: str | None = None,
    options: dict[str, Any] | None = None,
    limit: int = 4,
) -> tuple[str, ...]:
    """Verify a data set reader on files of its layout.

    Args:
        dataset: a registered name, or the class.
        root: folder with a few complete samples.
        split, options: as for `dense_ctx.data.open_set`.
        limit: number of samples, or clips, to read.

    Returns:
        The clauses verified: layout, options, open, split, names; then of images samples, again and end, of clips
        frames.

    Raises:
        ContractError: a clause is broken.
    """
    check = Clauses("data set", dataset)
    with check.clause("layout") as require:
        reader = factory("dataset", dataset, {})()
        require(isinstance(reader, DatasetReader), f"gave a {type(reader).__name__}, not a DatasetReader")
        _layout(require, reader.layout, dataset if isinstance(dataset, str) else None)
    with check.clause("options") as require:
        _options(require, reader, root, split)
    with check.clause("open") as require:
        samples = list_with(reader, root, split, **(options or {}))
        require(
            isinstance(samples, (ImageSet, VideoSet)), f"gave a {type(samples).__name__}, not an ImageSet or VideoSet"
        )
        require(not samples.problems, f"problems of files that are all there: {', '.join(samples.problems[:2])}")
        require(len(samples) > 0, "it is empty for this root")
    with check.clause("split") as require:
        _refused(require, lambda: list_with(reader, root, "no-such-split"), "a split that it does not have")
    if isinstance(samples, VideoSet):
        _names(check, [clip.name for clip in samples.clips], len(samples))
        with check.clause("frames") as require:
            for clip in samples.clips[:limit]:
                _clip(require, clip)
    else:
        _names(check, list(samples.names), len(samples))
        _images(check, samples, limit)
    return tuple(check.done)


def _layout(require: Require, layout: Any, name: str | None) -> None:
    require(isinstance(layout, Layout), f"layout is a {type(layout).__name__}, not a Layout")
    require(name in (None, layout.name), f"it is registered as {name!r}, its layout says {layout.name!r}")
    require(layout.kind in get_args(Kind), f"kind {layout.kind!r} is none of {', '.join(get_args(Kind))}")
    require(bool(layout.splits) and bool(layout.expected), "splits and expected must not be empty")
    extra = set(layout.counts) - set(layout.splits)
    require(not extra, f"counts of splits that it does not have: {', '.join(sorted(extra))}")


def _options(require: Require, reader: DatasetReader, root: str | os.PathLike[str], split: str | None) -> None:
    parameters = inspect.signature(reader.open).parameters.values()
    require(all(p.kind is not p.VAR_KEYWORD for p in parameters), "open(**options) accepts any name: list the options")
    keywords = {p.name for p in parameters} - {"root", "split"}
    described = {name for name, _ in reader.layout.options}
    require(keywords == described, f"open takes {sorted(keywords)}, layout.options describes {sorted(described)}")
    unknown = {"no_such_option": 1}
    _refused(require, lambda: list_with(reader, root, split, **unknown), "an option that it does not have")


def _refused(require: Require, action: Callable[[], Any], what: str) -> None:
    try:
        action()
    except InputError:
        return
    require(False, f"{what} must raise InputError")


def _names(check: Clauses, names: list[str], count: int) -> None:
    with check.clause("names") as require:
        require(len(names) == count, f"{len(names)} names for {count} samples")
        twice = {name for name in names if names.count(name) > 1}
        require(not twice, f"names are unique; there are two {', '.join(sorted(twice)[:2])}")
        fit = all(isinstance(name, str) and name and ".." not in name and not name.startswith("/") for name in names)
        require(fit, f"names are fit for file names; got {names[:3]}")


def _images(check: Clauses, images: ImageSet, limit: int) -> None:
    count = len(images)
    indices = sorted({index * count // min(limit, count) for index in range(min(limit, count))})
    with check.clause("samples") as require:
        labelled = images.kind != "segmentation" or bool(images.classes)
        require(labelled, "a set of kind segmentation names its classes")
        for index in indices:
            sample = images[index]
            require(isinstance(sample, Sample), f"gave a {type(sample).__name__}, not a Sample")
            require(
                sample.name == images.names[index], f"sample {index} is {sample.name!r}, not {images.names[index]!r}"
            )
            _sample(require, sample, images)
    with check.clause("again") as require:
        for index in indices:
            first, second = images[index], images[index]
            same = torch.equal(first.image, second.image) and torch.equal(
                first.target.nan_to_num(-9), second.target.nan_to_num(-9)
            )
            require(same, f"sample {first.name!r} differs when it is read again")
    with check.clause("end") as require:
        try:
            images[count]
        except IndexError:
            return
        require(False, f"index {count} of {count} samples must raise IndexError, or a loop over them never ends")


def _sample(require: Require, sample: Sample, images: ImageSet) -> None:
    image, target, name, kind = sample.image, sample.target, sample.name, images.kind
    shape, size = list(image.shape), list(image.shape[-2:])
    require(image.dtype == torch.float32 and len(shape) == 3 and shape[0] == 3, f"{name}: image {image.dtype} {shape}")
    require(bool((image >= 0).all() and (image <= 1).all()), f"{name}: the image leaves [0, 1]")
    expected = {"depth": [1, *size], "normals": [3, *size]}.get(kind, size)
    dtype = torch.float32 if kind in ("depth", "normals") else torch.int64
    form = f"{target.dtype} {list(target.shape)}"
    require(target.dtype == dtype and list(target.shape) == expected, f"{name}: {kind} {form}, not {dtype} {expected}")
    if dtype == torch.int64:
        ids = f"ids {int(target.min())} to {int(target.max())}"
        require(int(target.min()) >= -1, f"{name}: {ids}; -1 is ignored")
        require(kind == "instances" or int(target.max()) < len(images.classes), f"{name}: {ids} of {images.classes}")
        return
    valid = target[:, target.isfinite().all(0)]
    require(not bool(target.isinf().any()), f"{name}: unknown values are NaN, not infinity")
    if kind == "depth":
        require(bool((valid > 0).all()), f"{name}: a depth is not above 0; unknown values are NaN")
    else:
        require(bool(((valid.norm(dim=0) - 1).abs() < 1e-3).all()), f"{name}: a normal is not of length 1")


def _clip(require: Require, clip: Clip) -> None:
    require(bool(clip.frames) != (clip.video is not None), f"{clip.name}: either frames or a video file")
    require(len(clip.masks) == len(clip.frames), f"{clip.name}: {len(clip.masks)} masks, {len(clip.frames)} frames")
    for path, mask in zip(clip.frames, clip.masks, strict=True):
        frame = load(path)
        if mask is not None:
            labels = read_mask(mask, clip.binary)
            require(labels.shape == frame.shape[-2:], f"{mask} is {list(labels.shape)}, {path} {list(frame.shape)}")
