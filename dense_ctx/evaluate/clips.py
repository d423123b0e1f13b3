"""Video object segmentation: a probe fitted on the first frame's mask labels the others, one frame at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from .. import visualize
from ..data.base import Clip, VideoSet, read_mask, same_size
from ..errors import ConfigError, InputError, about
from ..images import load, nearest, resized
from ..interfaces import Probe, Size
from ..numerics import require_finite
from ..progress import ahead
from .job import Job, Totals, make_probe
from .samples import encoded, model_size, together


class VideoEvaluation:
    """An evaluation on clips that are annotated in every frame.

    Raises:
        InputError: no clip, or one with fewer than three frames or a frame without mask.
        ConfigError: the protocol trains a probe by steps; on clips it is fitted on the first frame.
    """

    def __init__(self, job: Job, clips: VideoSet) -> None:
        protocol = job.protocol
        if not len(clips):
            raise InputError(f"{protocol.data.name} holds no clip")
        if protocol.train is not None:
            raise ConfigError(f"{protocol.id}: a probe is fitted on each clip's first frame; set train=null")
        self.job, self.clips = job, clips
        for clip in clips.clips:
            if len(clip.frames) < 3 or len(clip.masks) != len(clip.frames) or None in clip.masks:
                masks = sum(mask is not None for mask in clip.masks)
                raise InputError(
                    f"{clip.name} has {len(clip.frames)} frame(s) and {masks} mask(s); "
                    "at least 3 frames, each with a mask, are needed (the first and the last are not scored)"
                )

    def run(self) -> Totals:
        """Scores of each seed and clip, over the clips of all processes."""
        clips = {clip.name: clip for clip in self.clips.clips}
        # an earlier run may have written no predictions
        files = {key: [self._path(c, frame) for frame in c.frames if self.job.keep] for key, c in clips.items()}
        todo = [clips[name] for name in self.job.folder.share(files)]
        frames = (frame for clip in todo for frame in self._clip(clip))
        for _ in self.job.progress(frames, sum(len(clip.frames) for clip in todo), "frames"):
            pass
        return self.job.totals(list(clips), self.clips.classes)

    def _path(self, clip: Clip, frame: Path) -> Path:
        return self.job.folder.predictions / clip.name / f"{frame.stem}.png"

    def _clip(self, clip: Clip) -> Iterator[None]:
        """Evaluate one clip; memory does not depend on its length."""
        model, protocol, scorer = self.job.model, self.job.protocol, self.job.scorer
        probes: dict[int, Probe] = {}
        metrics = self.job.metrics(self.clips.classes)
        first_size: Size = (0, 0)
        middle = len(clip.frames) // 2
        read = ahead(lambda number: self._read(clip, number), range(len(clip.frames)), 1 + together(model))
        frames = zip(clip.frames, encoded(model, read, protocol), strict=True)
        for number, (path, ((image, mask), features)) in enumerate(frames):
            height, width = image.shape[1:]
            if number == 0:
                first_size = (height, width)
            elif (height, width) != first_size:
                raise InputError(
                    f"{clip.name}: {path.name} is {height} x {width} (H x W), the first frame "
                    f"{first_size[0]} x {first_size[1]}"
                )
            for seed, metric in metrics.items():
                if number == 0:
                    with scorer.blamed():
                        metric.start(clip.name, mask)
                    first = mask.masked_fill(mask == 255, -1)
                    grid = (features.pixels.shape[-2], features.pixels.shape[-1])
                    probes[seed] = make_probe(protocol, seed)
                    with self.job.blamed():
                        probes[seed].partial_fit(features, nearest(first, grid)[None])
                    labels = first.clamp_min(0)
                else:
                    with self.job.blamed():
                        scores = probes[seed].predict(features, size=(height, width))[0]
                    require_finite(f"{clip.name}, frame {number}: the prediction", values=scores)
                    labels = _largest(scores).cpu()
                    with scorer.blamed():
                        metric.update(labels, mask)
                if seed == self.job.seeds[0]:
                    self._show(clip, path, labels, image if number == middle else None)
            yield
        self.job.write(clip.name, metrics, {clip.name: self.job.headlines(metrics)})

    def _read(self, clip: Clip, number: int) -> tuple[str, Tensor, tuple[Tensor, Tensor]]:
        """A frame's name, its image at the size that the model encodes, and itself with its mask."""
        path = cast(Path, clip.masks[number])  # each frame has one
        with about(name := f"{clip.name}, frame {number}"):
            image, mask = load(clip.frames[number]), read_mask(path, clip.binary)
        same_size(image, mask, str(path))
        return name, resized(image, model_size((image.shape[-2], image.shape[-1]), self.job.protocol)), (image, mask)

    def _show(self, clip: Clip, path: Path, labels: Tensor, image: Tensor | None) -> None:
        if self.job.keep:
            visualize.save_labels(self._path(clip, path), labels * 255 if clip.binary else labels)
        if image is not None:
            picture = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
            file = self.job.folder.path / "pictures" / f"{clip.name}.png"
            visualize.save_picture(file, visualize.overlay(picture, labels))


def _largest(scores: Tensor) -> Tensor:
    """`scores.argmax(0)` of [K, H, W], the first of equals: for one object ten times as fast on a CPU."""
    best, labels = scores[0], torch.zeros(scores.shape[1:], dtype=torch.int64, device=scores.device)
    for index, each in enumerate(scores[1:], 1):
        labels = torch.where(each > best, index, labels)
        best = torch.maximum(best, each)
    return labels
