"""Check a data set's root: counts, sizes, labels, problems, and a sample picture."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dense_ctx.data.base import Clip, ImageSet, Kind, Layout, Sample, VideoSet, read_mask, read_sample
from dense_ctx.errors import DenseCtxError, FileError, InputError, PluginError
from dense_ctx.gateway import gateway

if TYPE_CHECKING:
    from torch import Tensor

    from dense_ctx.visualize import Picture

Progress = Callable[[Iterable[int], int], Iterable[int]]


@dataclass
class Report:
    """The result of `check_root`.

    kind: of the annotations.
    count, official: samples (clips) of the split, and the published number (None: unknown).
    checked: number of samples read.
    sizes: (H, W) -> number of images.
    ids: label (or object) id -> number of images (clips) that have it; -1 is ignored.
    low, high: range of depth in metres, of the normals' components.
    problems: each names its file.
    picture: image and annotation side by side, uint8 [H, 2 W, 3].
    """

    layout: Layout
    root: Path
    split: str
    kind: Kind
    count: int = 0
    official: int | None = None
    checked: int = 0
    frames: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    ids: Counter[int] = field(default_factory=Counter)
    low: float | None = None
    high: float | None = None
    classes: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)
    picture: Picture | None = None

    @property
    def complete(self) -> bool:
        """Whether the split has the published number of samples; True if that is unknown."""
        return self.official in (None, self.count)

    def text(self, limit: int = 20) -> str:
        """Format the report as lines of text, with at most `limit` problems."""
        what = "clips" if self.kind == "video" else "images"
        lines = [f"{self.layout.title}, split {self.split}: {self.root}"]
        of = "" if self.official is None else f", official {self.official}"
        if self.official is not None and not self.complete:
            of += ": incomplete" if self.count < self.official else ": more"
        lines.append(f"  {what:<9} {self.count}{of}; {self.checked} read" + self._frames())
        if self.sizes:
            listing = [f"{h} x {w} ({n})" for (h, w), n in self.sizes.most_common(4)]
            more = f", and {len(self.sizes) - 4} more" if len(self.sizes) > 4 else ""
            lines.append(f"  {'H x W':<9} {', '.join(listing)}{more}")
        if self.ids:
            lines.append(f"  {'ids':<9} {self._ids()}")
        if self.low is not None and self.high is not None:
            unit = " metres" if self.kind == "depth" else ""
            lines.append(f"  {'values':<9} {self.low:.3f} to {self.high:.3f}{unit}")
        lines.append(f"  {'problems':<9} {len(self.problems) or 'none'}")
        lines += [f"    {problem}" for problem in self.problems[:limit]]
        if len(self.problems) > limit:
            lines.append(f"    ... and {len(self.problems) - limit} more")
        return "\n".join(lines)

    def _frames(self) -> str:
        return f", {self.frames} frames" if self.frames else ""

    def _ids(self) -> str:
        ids = sorted(value for value in self.ids if value >= 0)
        text = f"{len(ids)} of {len(self.classes)} classes" if self.classes else f"{len(ids)}"
        if ids:
            text += f", {ids[0]} to {ids[-1]}"
        absent = [name for index, name in enumerate(self.classes) if index not in self.ids]
        if absent and len(absent) <= 8:
            text += f"; absent: {', '.join(absent)}"
        return text + ("; some pixels ignored" if -1 in self.ids else "")


@gateway
def check_root(
    name: str,
    root: str | os.PathLike[str],
    split: str | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Read a data set and report on it; missing and damaged files do not abort the check.

    Reads every frame and mask of clips, the first frame of video files.

    Args:
        limit: number of samples (clips) to read, evenly spaced; default all.
        progress: wraps the indices that are read, as tqdm does.
        options: as for `open_set`.

    Raises:
        UnknownNameError, InputError, MissingDependencyError: as `open_set`; a root of another layout is a problem
            in the report instead.
    """
    from dense_ctx.data.open import layout, list_set

    if limit is not None and limit < 1:
        raise InputError(f"limit is 1 or more; got {limit}")
    expected = layout(name)
    report = Report(expected, Path(root), split or expected.splits[0], expected.kind)
    report.official = expected.counts.get(report.split)
    try:
        opened = list_set(name, root, split, **options)
    except FileError as error:
        report.problems.append(str(error))
        return report
    report.kind, report.count, report.classes = opened.kind, len(opened), opened.classes
    report.problems += opened.problems
    indices = _spread(len(opened), limit)
    if isinstance(opened, VideoSet):
        report.classes = ()  # they are classes of clips, not of pixels
    for index in progress(indices, len(indices)) if progress else indices:
        report.checked += 1
        if isinstance(opened, VideoSet):
            _clip(opened.clips[index], report)
        else:
            _image(opened, index, report)
    if isinstance(opened, ImageSet):
        report.problems += _attempt(opened.verify)
    return report


def _spread(count: int, limit: int | None) -> list[int]:
    if limit is None or limit >= count:
        return list(range(count))
    return [index * count // limit for index in range(limit)]


def _attempt(action: Callable[[], list[str]]) -> list[str]:
    try:
        return action()
    except DenseCtxError as error:
        return [str(error)]


def _image(opened: ImageSet, index: int, report: Report) -> None:
    try:
        sample = read_sample(opened, index, report.layout.name)
    except (FileError, InputError, PluginError) as error:
        report.problems.append(str(error))
        return
    report.sizes[(sample.image.shape[-2], sample.image.shape[-1])] += 1
    _target(sample.target, sample.name, opened.kind, report)
    if report.picture is None:
        report.picture = sample_picture(sample, opened.kind)


def _target(target: Tensor, name: str, kind: str, report: Report) -> None:
    import torch

    if kind in ("segmentation", "instances"):
        values = torch.unique(target).tolist()
        report.ids.update(values)
        if values == [-1]:
            report.problems.append(f"{name}: every pixel is ignored")
        return
    valid = target[torch.isfinite(target)]
    if not len(valid):
        report.problems.append(f"{name}: no pixel has a value")
        return
    low, high = float(valid.min()), float(valid.max())
    report.low = low if report.low is None else min(report.low, low)
    report.high = high if report.high is None else max(report.high, high)


def _clip(clip: Clip, report: Report) -> None:
    import torch

    from dense_ctx.data.video import Video
    from dense_ctx.images import load

    if clip.video is not None:
        try:
            video = Video(clip.video)
            first = video.first()
        except FileError as error:
            report.problems.append(str(error))
            return
        report.frames += len(video)
        report.sizes[(first.shape[0], first.shape[1])] += 1
        if report.picture is None:
            report.picture = first
        return
    size: tuple[int, int] | None = None
    ids: set[int] = set()
    for path, mask in zip(clip.frames, clip.masks, strict=True):
        try:
            frame = load(path)
            report.frames += 1
            shape = (frame.shape[-2], frame.shape[-1])
            if size is None:
                size = shape
            elif shape != size:
                raise InputError(f"{path} is {shape[0]} x {shape[1]} (H x W), the first frame {size[0]} x {size[1]}")
            if mask is None:
                continue
            labels = read_mask(mask, clip.binary)
            if tuple(labels.shape) != shape:
                raise InputError(
                    f"{mask} is {labels.shape[0]} x {labels.shape[1]} (H x W), its frame {shape[0]} x {shape[1]}"
                )
            ids.update(torch.unique(labels).tolist())
            if report.picture is None:
                report.picture = sample_picture(Sample(clip.name, frame, labels), "video")
        except (FileError, InputError) as error:
            report.problems.append(str(error))
    if size is not None:
        report.sizes[size] += 1
    report.ids.update(ids)
    if any(mask is not None for mask in clip.masks) and ids == {0}:
        report.problems.append(f"the clip {clip.name!r} has no object in any mask")


def sample_picture(sample: Sample, kind: str) -> Picture:
    """A sample's image and annotation side by side, uint8 [H, 2 W, 3]."""
    import numpy as np

    from dense_ctx.visualize import overlay, palette

    image: Picture = (sample.image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    target = sample.target
    if kind == "depth":
        valid = target.isfinite()
        low, high = (float(target[valid].min()), float(target[valid].max())) if bool(valid.any()) else (0.0, 1.0)
        grey = (1 - (target[0] - low) / max(high - low, 1e-9)).nan_to_num(0).mul(255).numpy().astype(np.uint8)
        right = np.repeat(grey[:, :, None], 3, axis=2)
    elif kind == "normals":
        right = (target.permute(1, 2, 0).add(1).mul(127.5).nan_to_num(0)).numpy().astype(np.uint8)
    else:
        # overlays are transparent at 0, so class ids are shown from 1 and ignored pixels at 0
        labels = target + 1 if kind == "segmentation" else target.clamp_min(0)
        right = overlay(image, labels, palette(max(256, int(labels.max()) + 1)))
    picture: Picture = np.concatenate([image, right], axis=1)
    return picture
