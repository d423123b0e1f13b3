"""Pairs of video frames for LILA: a gap in time, cues of the whole frames, an independent crop of each frame."""

from __future__ import annotations

import random
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from dense_ctx.data import Clip, VideoSet
from dense_ctx.errors import ConfigError, FileError, refuse_idle
from dense_ctx.interfaces import SeededDataset

from .crops import crop_image, crop_map, draw_box, scaled
from .cue_cache import CueCache
from .cues.base import Cue, normalize_cues
from .frame_maps import Maps, confidence_of, cue_maps, standardized_maps
from .source import Source
from .synthetic import LAYERS, OBJECTS, Scene

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
    synthetic: share of the pairs that are made of one frame, by a camera motion and objects cut out of other frames,
        from 0 to 1; see `Scene`. Their flow is known and takes the place of what a flow cue without weights would
        give; so is the order in depth, the cue `layers`.
    flow_check: forward and backward flow must agree, see `consistency`: elsewhere a flow cue's loss is left out.
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
    synthetic: float = 0.0
    flow_check: bool = False
    memory: int = 1_000_000_000

    def __post_init__(self) -> None:
        if not 1 <= self.gap[0] <= self.gap[1]:
            raise ConfigError(f"gap={self.gap}: at least 1 frame, the least first")
        if not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ConfigError(f"crop={self.crop}: shares of the short side in (0, 1], the least first")
        if not 0 <= self.synthetic <= 1:
            raise ConfigError(f"synthetic={self.synthetic}: a share of the pairs, from 0 to 1")
        idle = "with same_frame=true, whose pairs have no motion of their own"
        refuse_idle([(self.same_frame and self.synthetic > 0, "synthetic", idle)])
        if not self.map_size:
            object.__setattr__(self, "map_size", self.size)
        if min(self.size, self.map_size, self.frame_side, self.cue_side) < 8:
            raise ConfigError(
                f"size={self.size}, map_size={self.map_size}, "
                f"frame_side={self.frame_side}, cue_side={self.cue_side}: at least 8 pixels"
            )


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
                if self.sampling.synthetic and generator.random() < self.sampling.synthetic:
                    return self._scene(f"{source.name}@{start} synthetic", first, generator)
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
        maps_of = partial(self._maps, source=source, places=places)
        return self._item(
            f"{source.name}@{start}+{gap}", torch.stack([first, second]).float() / 255, maps_of, generator
        )

    def _scene(self, name: str, frame: Tensor, generator: random.Random) -> Mapping[str, Any]:
        """A pair that is made of a frame and of others'."""
        others = []
        for _ in range(generator.randint(*OBJECTS)):
            number, start = self._place(generator.randrange(len(self)), generator)
            others.append(self._pair(number, start, self.sampling.gap[0])[0].float() / 255)
        scene = Scene(frame.float() / 255, others, generator)
        size = (frame.shape[1], frame.shape[2])
        return self._item(name, scene.frames(size), partial(self._true_maps, scene=scene), generator)

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

    def _maps(self, small: Tensor, source: Source, places: tuple[int, int]) -> Maps:
        """Of a real pair, at one scale."""
        maps: Maps = {}
        check, size = self.sampling.flow_check, (small.shape[-2], small.shape[-1])
        for name, cue in self.cues.items():
            if name == LAYERS:  # not known here, and left out of the loss
                none = small.new_zeros(1, 1, *size)
                maps |= {name: (none, none), confidence_of(name): (none, none)}
            else:
                maps |= cue_maps(name, cue, small[:1], small[1:], check)
        if self.cache is not None:
            size = self.cache.size(source.clip)
            for name, (context, query) in self.cache.maps(source.clip, places[0], places[1] - places[0]).items():
                flow = [i - self.cache.channels[name].start for i in self.cache.flow if i in _range(self.cache, name)]
                maps |= standardized_maps(name, context[None], query[None], flow, size, check)
        return maps

    def _true_maps(self, small: Tensor, scene: Scene) -> Maps:
        """Of a synthetic pair: its flow and its order in depth are known."""
        maps: Maps = {}
        size = (small.shape[-2], small.shape[-1])
        flow, order = scene.truth(size)
        everywhere = small.new_ones(1, 1, *size)
        for name, cue in self.cues.items():
            if name == LAYERS:
                maps[name] = normalize_cues(order[:1], order[1:])
            elif cue.unit == "pixels":
                maps[name] = normalize_cues(flow[:1], flow[1:], flow=[0], size=size)
            else:
                maps |= cue_maps(name, cue, small[:1], small[1:], False)
                continue
            if name == LAYERS or self.sampling.flow_check:
                maps[confidence_of(name)] = everywhere, everywhere
        return maps

    def _item(
        self, name: str, pair: Tensor, maps_of: Callable[[Tensor], Maps], generator: random.Random
    ) -> Mapping[str, Any]:
        sampling = self.sampling
        size = (pair.shape[-2], pair.shape[-1])
        whole = tuple(sampling.crop) == (1.0, 1.0)
        boxes = [draw_box(size, sampling.crop, None if whole else generator) for _ in range(2)]
        item: dict[str, Any] = {"name": name}
        small = scaled(pair, sampling.cue_side) if self.cues or self.frames else pair
        maps = maps_of(small)
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
