"""Pairs of video frames for LILA: a gap in time, cues of the whole frames, an independent crop of each frame."""

from __future__ import annotations

import random
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dense_ctx.data import Clip, VideoSet
from dense_ctx.data.video import Video
from dense_ctx.errors import ConfigError, FileError
from dense_ctx.images import open_image
from dense_ctx.interfaces import SeededDataset

from .crops import crop_image, crop_map, draw_box, scaled
from .cue_cache import CueCache
from .cues.base import Cue, normalize_cues

_RECENT = 64  # clips whose lengths a worker remembers


@dataclass(frozen=True)
class Sampling:
    """How pairs are drawn.

    gap: frames between context and query, least and most; the query comes before as often as after. Frames are those of
        the data set: where it keeps every fifth of a video, a gap of 1 is five of the video's.
    items: "frames": an item of the data set is a frame of a clip, and each clip is opened at the start, so that broken
        ones are known; "clips": it is a clip, opened when it is drawn, with a place drawn in it. For hundreds of
        thousands of clips.
    crop: side of the square crop as a share of the frame's short side, least and most; (1, 1): the largest square in
        the middle, the same for both frames (the ablation without crops).
    size: side of the crop as the network sees it, pixels.
    map_size: side of the crop's cue maps; 0: `size`.
    frame_side: frames are read at this short side at most.
    cue_side: cues are computed on frames of this short side at most.
    same_frame: the query is the context frame itself (the ablation without time).
    memory: bytes of decoded frames kept by each worker. Clips that fit into it as a whole are decoded whole, once.
    """

    gap: tuple[int, int] = (1, 5)
    items: Literal["frames", "clips"] = "frames"
    crop: tuple[float, float] = (0.5, 0.75)
    size: int = 224
    map_size: int = 0
    frame_side: int = 480
    cue_side: int = 256
    same_frame: bool = False
    memory: int = 1_000_000_000

    def __post_init__(self) -> None:
        if not 1 <= self.gap[0] <= self.gap[1]:
            raise ConfigError(f"gap={self.gap}: at least 1 frame, the least first")
        if not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ConfigError(f"crop={self.crop}: shares of the short side in (0, 1], the least first")
        if not self.map_size:
            object.__setattr__(self, "map_size", self.size)
        if min(self.size, self.map_size, self.frame_side, self.cue_side) < 8:
            raise ConfigError(
                f"size={self.size}, map_size={self.map_size}, "
                f"frame_side={self.frame_side}, cue_side={self.cue_side}: at least 8 pixels"
            )


class Source:
    """A clip that can be read at any place; frames are made smaller once and kept while there is room."""

    def __init__(self, clip: Clip, sampling: Sampling) -> None:
        self.clip, self.name, self.sampling = clip, clip.name, sampling
        self._frames = clip.frames
        self._video = None if clip.video is None else Video(clip.video)
        self.length = len(self._frames) if self._video is None else len(self._video)
        if self.length <= sampling.gap[0]:
            raise FileError(f"{clip.name} has {self.length} frame(s); a gap of {sampling.gap[0]} needs more")
        self.check()

    def check(self) -> None:
        """Decode the first pair, so that a broken file is found before training."""
        first = self.read(0, self.sampling.gap[0])[0]
        self.bytes = self.length * first.numel()  # of all its frames, made smaller

    def read(self, start: int, gap: int) -> dict[int, Tensor]:
        """Frames [3, H, W] uint8 by number, `start` and `start + gap` among them.

        Raises:
            FileError: one of them cannot be decoded.
        """
        if self._video is None:
            pictures = {i: np.array(open_image(self._frames[i]).convert("RGB")) for i in (start, start + gap)}
        else:
            frames = self._video.frames(start, gap + 1)
            pictures = {i: np.array(picture) for i, picture in enumerate(frames, start)}
            if len(pictures) <= gap:
                raise FileError(f"{self.name} ends at frame {start + len(pictures) - 1}, before frame {start + gap}")
        return {i: self._small(torch.from_numpy(picture).permute(2, 0, 1)) for i, picture in pictures.items()}

    def read_all(self) -> Iterator[tuple[int, Tensor]]:
        """Frames with their numbers in one pass, up to the first damaged one."""
        if self._video is not None:
            with suppress(FileError):
                for number, picture in enumerate(self._video):
                    yield number, self._small(torch.from_numpy(np.array(picture)).permute(2, 0, 1))

    def _small(self, frame: Tensor) -> Tensor:
        side = min(frame.shape[1:])
        if side <= self.sampling.frame_side:
            return frame.contiguous()
        return scaled(frame[None].float(), self.sampling.frame_side)[0].round().clamp(0, 255).to(torch.uint8)


class FramePairs(SeededDataset):
    """An item is a frame of a clip, or a clip (`Sampling.items`); what is drawn around it depends on the seed alone.

    Args:
        clips: from `dense_ctx.data`.
        sampling: how.
        cues: those that need no accelerator; computed here, by the workers.
        frames: hand over the whole frames too, for cues computed on the accelerator.
        cache: where the maps of all cues are read instead (`dense-ctx cues`).

    Raises:
        FileError: not one clip can be read, or the cache lacks one.
    """

    def __init__(
        self,
        clips: VideoSet,
        sampling: Sampling,
        cues: Mapping[str, Cue] | None = None,
        frames: bool = False,
        cache: CueCache | None = None,
    ) -> None:
        self.sampling, self.cues, self.frames, self.cache = sampling, dict(cues or {}), frames, cache
        self.clips: Sequence[Clip] = clips.clips
        self.sources: list[Source] = []
        self.broken: list[str] = []
        self._recent: OrderedDict[int, Source] = OrderedDict()  # of clips opened when drawn
        if sampling.items == "frames":
            self._open_all()
        if not self.clips:
            raise FileError(
                f"None of {len(clips.clips)} clips can be read"
                + (f": {', '.join(self.broken[:5])}" if self.broken else "; the folder holds no video")
            )
        absent = [] if cache is None else [clip.name for clip in self.clips if clip not in cache]
        if absent:
            raise FileError(
                f"The cue cache lacks {len(absent)} clip(s): {', '.join(absent[:5])}. Run `dense-ctx cues` on them too"
            )
        self._places = [
            (number, start)
            for number, source in enumerate(self.sources)
            for start in range(source.length - sampling.gap[0])
        ]
        self._frames: OrderedDict[tuple[int, int], Tensor] = OrderedDict()
        self._used = 0
        self._whole = bool(self.sources) and sum(source.bytes for source in self.sources) <= sampling.memory
        self._decoded: set[int] = set()  # clips decoded whole

    def _open_all(self) -> None:
        for clip in self.clips:
            try:
                self.sources.append(Source(clip, self.sampling))
            except FileError as error:
                self.broken.append(clip.name)
                warnings.warn(f"{clip.name} is left out: {error}", stacklevel=2)
        self.clips = [source.clip for source in self.sources]

    def __len__(self) -> int:
        return len(self._places) or len(self.clips)

    def _place(self, index: int, generator: random.Random) -> tuple[int, int]:
        """The clip of an item, and the first frame of its pair."""
        if self._places:
            return self._places[index]
        return index, generator.randrange(self._source(index).length - self.sampling.gap[0])

    def _source(self, number: int) -> Source:
        if self.sources:
            return self.sources[number]
        if number not in self._recent:
            self._recent[number] = Source(self.clips[number], self.sampling)
            if len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
        return self._recent[number]

    def sample(self, index: int, seed: int) -> Mapping[str, Any]:
        """The pair at `index`, drawn with `seed`.

        Returns:
            name; context, query: crops [3, S, S] in [0, 1]; context_box, query_box: [4], top, left, height, width as
            shares of the frame; for each cue of the workers context/NAME and query/NAME: [c, map_size, map_size];
            with `frames` the frames themselves, [2, 3, H, W] at the cues' size.
        """
        generator = random.Random(seed)
        for _ in range(20):
            place = self.clips[self._places[index][0] if self._places else index].name
            try:
                number, start = self._place(index, generator)
                place, source = f"{place} at frame {start}", self._source(number)
                gap = generator.randint(self.sampling.gap[0], min(self.sampling.gap[1], source.length - 1 - start))
                first, second = self._pair(number, start, gap)
                break
            except FileError as error:  # damaged further on: another place, the same for this seed ever after
                warnings.warn(f"{place} is left out: {error}", stacklevel=2)
                index = generator.randrange(len(self))
        else:
            raise FileError(
                "20 places in a row cannot be decoded; check the clips with `dense-ctx datasets clips ROOT`"
            )
        places = (start, start + gap)
        if generator.random() < 0.5:
            first, second, places = second, first, places[::-1]
        return self._item(f"{source.name}@{start}+{gap}", torch.stack([first, second]), source, places, generator)

    def _pair(self, number: int, start: int, gap: int) -> tuple[Tensor, Tensor]:
        keys = (number, start), (number, start + gap)
        if self._whole and number not in self._decoded:
            # one pass over a clip costs what a few seeks into it do
            self._decoded.add(number)
            for index, frame in self._source(number).read_all():
                self._keep((number, index), frame)
        if not all(key in self._frames for key in keys):
            read = self._source(number).read(start, gap)
            for index, frame in read.items():
                self._keep((number, index), frame)
            return read[start], read[start + gap]
        return self._frames[keys[0]], self._frames[keys[1]]

    def _keep(self, key: tuple[int, int], frame: Tensor) -> None:
        if key not in self._frames:
            self._frames[key] = frame
            self._used += frame.numel()
        while self._used > self.sampling.memory and self._frames:
            self._used -= self._frames.popitem(last=False)[1].numel()

    def _maps(self, small: Tensor, source: Source, places: tuple[int, int]) -> dict[str, tuple[Tensor, Tensor]]:
        """Each cue's maps [1, c, h, w] of whole frames, context and query, at one scale."""
        if self.cache is None:
            return {name: normalized(cue, small[:1], small[1:]) for name, cue in self.cues.items()}
        maps = {}
        size = self.cache.size(source.clip)
        for name, (context, query) in self.cache.maps(source.clip, places[0], places[1] - places[0]).items():
            flow = [i - self.cache.channels[name].start for i in self.cache.flow if i in _range(self.cache, name)]
            maps[name] = normalize_cues(context[None], query[None], flow=flow, size=size)
        return maps

    def _item(
        self, name: str, frames: Tensor, source: Source, places: tuple[int, int], generator: random.Random
    ) -> Mapping[str, Any]:
        sampling = self.sampling
        pair = frames.float() / 255
        size = (pair.shape[-2], pair.shape[-1])
        whole = tuple(sampling.crop) == (1.0, 1.0)
        boxes = [draw_box(size, sampling.crop, None if whole else generator) for _ in range(2)]
        item: dict[str, Any] = {"name": name}
        small = scaled(pair, sampling.cue_side) if self.cues or self.frames else pair
        maps = self._maps(small, source, places)
        if sampling.same_frame:
            maps = {cue_name: (context, context) for cue_name, (context, _) in maps.items()}
        views = (pair[0], pair[0] if sampling.same_frame else pair[1])
        for side, (role, box) in enumerate(zip(("context", "query"), boxes, strict=True)):
            item[role] = crop_image(views[side], box, sampling.size)
            item[f"{role}_box"] = torch.tensor(box)
            for cue_name, pair_of_maps in maps.items():
                item[f"{role}/{cue_name}"] = crop_map(pair_of_maps[side], torch.tensor(box)[None], sampling.map_size)[0]
        if self.frames:
            item["frames"] = small
        return item


def _range(cache: CueCache, name: str) -> range:
    channels = cache.channels[name]
    return range(channels.start, channels.stop)


def normalized(cue: Cue, context: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """A cue's maps of whole frames [B, 3, H, W], brought to one scale by the context's statistics."""
    size = (context.shape[-2], context.shape[-1])
    flow = range(0, cue.channels, 2) if cue.unit == "pixels" else ()
    first, second = (maps.float() for maps in cue(context, query))  # sums over frames are not bfloat16's
    return normalize_cues(first, second, flow=flow, size=size)
