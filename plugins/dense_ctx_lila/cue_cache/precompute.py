"""plan_cues: the clips to compute and the size of the result; Plan.run computes them, clip by clip."""

from __future__ import annotations

import json
import os
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from dense_ctx.config import Part, parse_part
from dense_ctx.data.cache import DiskCache, disk_space
from dense_ctx.data.video import Video
from dense_ctx.errors import FileError, InputError
from dense_ctx.gateway import gateway

from ..cues.base import Cue, create_cue
from .clips import ClipFile, find_clips, read_frames, short_size, stamp
from .manifest import cue_folder, identity, notes
from .shards import HEADER, ClipShard, ShardWriter, rows, specs

_PROBED = 64  # clips opened for the estimate


@dataclass
class Report:
    """The outcome of `Plan.run` in this process.

    computed, complete: names of clips; the latter's maps existed already. broken: clips left out, with the reason.
    written: bytes.
    """

    computed: list[str] = field(default_factory=list)
    complete: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    written: int = 0


@dataclass
class Plan:
    """The work of a plan.

    clips: all of them. share: this process'. frames: about how many the share has left. bytes: about how many all
    processes will write. free: bytes of the disk.
    """

    clips: list[ClipFile]
    share: list[ClipFile]
    frames: int
    bytes: int
    free: int
    _cues: dict[str, Cue]
    _caches: dict[str, DiskCache[ClipShard]]
    _gaps: tuple[int, ...]
    _size: int | None
    _batch: int
    _device: torch.device
    _alone: bool

    def run(
        self,
        progress: Callable[[int], object] | None = None,
        broken: Callable[[str, Exception], object] | None = None,
    ) -> Report:
        """Compute the share; clips that are complete and unchanged are skipped.

        Args:
            progress: called with the number of frames just finished.
            broken: called with a clip's name and error when it is left out; default a warning.

        Raises:
            FileError: the disk is full or not writable, or no clip at all is usable.
        """
        report = Report()
        for clip in self.share:
            try:
                self._one(clip, report, progress or (lambda frames: None))
            except (FileError, InputError) as error:  # the writer's own failures are plain OSErrors
                report.broken[clip.name] = str(error)
                if broken is not None:
                    broken(clip.name, error)
                else:
                    warnings.warn(f"{clip.name} is left out: {error}", stacklevel=2)
            except OSError as error:
                raise FileError(
                    f"Cannot write the cue cache: {error}. Finished clips are kept; run it again"
                ) from error
        if self._alone and self.share and len(report.broken) == len(self.share):
            first = next(iter(report.broken.values()))
            raise FileError(f"None of {len(self.share)} clips is usable; the first: {first}")
        return report

    def _one(self, clip: ClipFile, report: Report, progress: Callable[[int], object]) -> None:
        video = stamp(clip.path)
        missing = [
            name
            for name, cache in self._caches.items()
            if not cache.complete(clip.name, specs(), lambda shard: bool(shard.video == video))
        ]
        if not missing:
            report.complete.append(clip.name)
            return
        with ExitStack() as stack:
            tracks = [
                _Track(
                    self._cues[name], stack.enter_context(ShardWriter(self._caches[name].path(clip.name))), self._batch
                )
                for name in missing
            ]
            window: deque[Tensor] = deque(maxlen=max(self._gaps) + 1)
            count = 0
            for frame in read_frames(clip.path, self._size):
                window.append(frame.to(self._device))
                for track in tracks:
                    track.add(window, self._gaps)
                count += 1
                progress(1)
            if any(track.cue.pair for track in tracks) and count <= min(self._gaps):
                raise FileError(f"{clip.path} has {count} frame(s); a gap of {min(self._gaps)} needs more")
            metadata = {"frames": str(count), "video": json.dumps(video), "clip": clip.name[-512:]}
            for track in tracks:
                track.flush()
            for track in tracks:
                report.written += track.writer.finish(metadata)
        report.computed.append(clip.name)


class _Track:
    """One cue's way through a clip: gathers frames or pairs, computes a batch, appends it."""

    def __init__(self, cue: Cue, writer: ShardWriter, batch: int) -> None:
        self.cue, self.writer, self.batch = cue, writer, batch
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._frames: list[Tensor] = []

    def add(self, window: deque[Tensor], gaps: Sequence[int]) -> None:
        """Take the newest frame of the window, with its pairs."""
        if not self.cue.pair:
            self._frames.append(window[-1])
        else:
            self._pairs += [(window[-1 - gap], window[-1]) for gap in gaps if gap < len(window)]
        if max(len(self._pairs), len(self._frames)) >= self.batch:
            self.flush()

    def flush(self) -> None:
        """Compute the gathered batch."""
        if self._frames:
            count = len(self._frames)
            frames = torch.stack(self._frames + self._frames[-1:] * (count % 2))  # both places of the cue are used
            maps = torch.cat(self.cue(*frames.chunk(2)))[:count, None]
            self.writer.append(maps)
            self._frames = []
        if self._pairs:
            context, query = (torch.stack(frames) for frames in zip(*self._pairs, strict=True))
            both = list(self.cue(context, query))
            both += [] if self.cue.antisymmetric else self.cue(query, context)
            self.writer.append(torch.stack(both, dim=1))
            self._pairs = []


@gateway
def plan_cues(
    videos: Sequence[str | os.PathLike[str]],
    cues: Sequence[str | Part],
    out: str | os.PathLike[str],
    *,
    gaps: Sequence[int] = (1, 2, 3, 4, 5),
    size: int | None = None,
    batch: int = 8,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world: int = 1,
) -> Plan:
    """Find the clips, build the cues, claim the folders, and estimate the disk space.

    Args:
        videos: files, folders of frames, folders of either.
        cues: names or "NAME(key=value, ...)".
        out: the cache; what it holds already of the same cues is kept.
        gaps: between the frames of a pair; both directions are served.
        size: short side of the frames, at most; None: their own.
        batch: frames or pairs computed at once.
        rank, world: this process' number, and how many share the clips.

    Raises:
        FileError: no clip, none of the probed ones readable, or the disk is too small.
        ConfigError: `out` holds maps of other arguments, version, size or gaps.
        InputError: gaps or numbers that make no sense; also what `create_cue` raises.
    """
    steps = tuple(sorted(set(gaps)))
    if not steps or steps[0] < 1 or batch < 1 or (size is not None and size < 8) or not 0 <= rank < world:
        raise InputError(
            f"gaps={list(gaps)!r:.60}, size={size!r:.20}, batch={batch!r:.20}, rank={rank!r:.20} of {world!r:.9}: gaps "
            "and batch from 1, size from 8"
        )
    parts = [parse_part(cue) for cue in cues]
    if not parts or len({part.name for part in parts}) < len(parts):
        raise InputError(f"cues={[part.name for part in parts]}: at least one, each once")
    root = Path(out)
    clips = find_clips(videos)
    where = torch.device(device)
    networks = {part.name: create_cue(part).to(where) for part in parts}
    caches: dict[str, DiskCache[ClipShard]] = {}
    for part in parts:  # a folder is written with one set of gaps, and read with any of these
        settings = {**identity(part, size), "gaps": list(steps) if networks[part.name].pair else None}
        caches[part.name] = cue_folder(root, part, settings)
        caches[part.name].check()
    rest = [clip for clip in clips if not all(cache.path(clip.name).exists() for cache in caches.values())]
    frames, total, reason = _estimate(rest, list(networks.values()), steps, size)
    if reason and len(rest) == len(clips):
        raise FileError(f"None of {len(clips)} clips is usable; the first: {reason}")
    free = disk_space(
        root,
        total,
        "cue cache",
        "lower size, use fewer gaps or cues, another disk, or no cache: training computes cues on the way without one",
    )
    for name, cache in caches.items():
        cache.claim(notes(networks[name]))
    share = clips[rank::world]
    return Plan(
        clips, share, round(frames / world), total, free, networks, caches, steps, size, batch, where, world == 1
    )


def _estimate(clips: list[ClipFile], cues: list[Cue], gaps: Sequence[int], size: int | None) -> tuple[int, int, str]:
    """Frames and bytes of the clips that are left, from at most 64 of them, evenly spread.

    The third is why the first of them cannot be read, where none of all the clips can.
    """
    if not clips:
        return 0, 0, ""
    probes = [clips[i * len(clips) // min(_PROBED, len(clips))] for i in range(min(_PROBED, len(clips)))]
    frames, total, readable = 0, 0, 0
    reason = ""
    for clip in probes:
        try:
            video = Video(clip.path)
            length, (height, width) = len(video), short_size(video.size, size)
        except FileError as error:
            reason = reason or str(error)
            continue
        readable += 1
        frames += length
        for cue in cues:
            count = rows(length, gaps) if cue.pair else length
            kinds = (2 if cue.antisymmetric else 4) if cue.pair else 1
            total += HEADER + count * (kinds * cue.channels * height * width * 2 + 8)  # float16, and a checksum
    scale = len(clips) / len(probes)
    nothing = not readable and len(probes) == len(clips)
    return round(frames * scale), round(total * scale), reason if nothing else ""
