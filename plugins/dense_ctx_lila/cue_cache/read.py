"""CueCache: maps of a pair of frames, from disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dense_ctx.config import Part, parse_part
from dense_ctx.data.cache import DiskCache
from dense_ctx.errors import ConfigError, FileError, InputError
from dense_ctx.interfaces import Size
from dense_ctx.persistence.identity import require_equal
from dense_ctx.persistence.tensors import Spec

from .clips import stamp
from .manifest import cue_folder, identity
from .shards import ClipShard, row, rows, specs

if TYPE_CHECKING:
    from dense_ctx.data import Clip


class CueCache:
    """Reads what `dense-ctx cues` wrote. Cheap to copy to workers: files are opened where they are read.

    Args:
        folder: the --out of `dense-ctx cues`.
        cues: names, "NAME(key=value, ...)" or Parts, in the order in which maps are joined.
        size: the short side of the frames (--size), or None for their own size.
        gaps: those that will be asked for; default any that the cache has.

    Attributes:
        channels: slices of the joined maps, by cue.
        flow: the x channels among the joined maps of cues in pixels: `normalize_cues(..., flow=cache.flow)`.

    Raises:
        ConfigError: stale: other arguments, version, size or gaps; the message names them.
        FileError: a cue is not in the cache.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        cues: Sequence[str | Part],
        size: int | None = None,
        gaps: Sequence[int] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._manifests: dict[str, dict[str, Any]] = {}
        self.channels: dict[str, slice] = {}
        self.flow: list[int] = []
        self._caches: dict[str, DiskCache[ClipShard]] = {}
        self._names: dict[tuple[str, str], str] = {}  # of shards, by cue and the clip's name as it was asked for
        self._checked: set[tuple[str, str]] = set()
        if not cues:
            raise InputError("CueCache needs at least one cue")
        start = 0
        for part in map(parse_part, cues):
            if part.name in self._caches:
                raise InputError(f"The cue {part.name!r} is asked for twice")
            cache = self._caches[part.name] = cue_folder(self.folder, part, identity(part, size))
            manifest = cache.check()
            if manifest is None:
                missing = f"{folder} has no maps of the cue {part.name!r}{_others(self.folder)}"
                raise FileError(f"{missing}. Make them with `dense-ctx cues`")
            others = sorted({abs(gap) for gap in gaps or ()} - set(manifest["gaps"] or ())) if manifest["pair"] else []
            if others:
                raise ConfigError(f"The cue cache of {part.name} has gaps {manifest['gaps']}, not {others}")
            self._manifests[part.name] = manifest
            stop = start + manifest["channels"]
            self.channels[part.name] = slice(start, stop)
            self.flow += range(start, stop, 2) if manifest["unit"] == "pixels" else ()
            start = stop

    def get(self, clip: str | os.PathLike[str] | Clip, t: int, gap: int) -> tuple[Tensor, Tensor]:
        """Maps of all cues joined, float32 [C, H, W] each: (context, query) of frames t and t + gap.

        Args:
            clip: its name, a path that ends in it, or a `dense_ctx.data.Clip`. Where a path is known the video
                is compared, once, with the one that was cached.
            t: the context's frame.
            gap: to the query's; negative when the query comes first. Flow is in pixels of frames of `size`(clip).

        Raises:
            FileError: no such clip in the cache, or its file is damaged.
            ConfigError: the video has changed since, or the gap was not cached.
            InputError: frames the clip does not have.
        """
        maps = list(self.maps(clip, t, gap).values())
        return torch.cat([context for context, _ in maps]), torch.cat([query for _, query in maps])

    def maps(self, clip: str | os.PathLike[str] | Clip, t: int, gap: int) -> dict[str, tuple[Tensor, Tensor]]:
        """As `get`, by cue."""
        return {cue: self._pair(cue, self._shard(cue, clip), clip, t, gap) for cue in self._manifests}

    def size(self, clip: str | os.PathLike[str] | Clip) -> Size:
        """(H, W) of a clip's maps, and of the frames whose pixels flow counts."""
        return self._shard(next(iter(self._manifests)), clip).size

    def frames(self, clip: str | os.PathLike[str] | Clip) -> int:
        """How many frames a clip has."""
        return self._shard(next(iter(self._manifests)), clip).frames

    def __contains__(self, clip: str | os.PathLike[str] | Clip) -> bool:
        try:
            return all(self._shard(cue, clip) is not None for cue in self._manifests)
        except FileError:
            return False

    def _pair(self, cue: str, shard: ClipShard, clip: Any, t: int, gap: int) -> tuple[Tensor, Tensor]:
        manifest = self._manifests[cue]
        if not (0 <= t < shard.frames and 0 <= t + gap < shard.frames):
            raise InputError(f"{_parse(clip)[0]}: frames {t} and {t + gap} asked for; it has 0 .. {shard.frames - 1}")
        if not manifest["pair"]:
            return shard.read(t)[0], shard.read(t + gap)[0]
        if abs(gap) not in manifest["gaps"]:
            raise ConfigError(f"The cue cache of {cue} has gaps {manifest['gaps']} in both directions; asked for {gap}")
        maps = shard.read(row(min(t, t + gap), abs(gap), manifest["gaps"]))
        if gap > 0:
            return maps[0], maps[1]
        return (-maps[1], -maps[0]) if manifest["antisymmetric"] else (maps[2], maps[3])

    def _shard(self, cue: str, clip: str | os.PathLike[str] | Clip) -> ClipShard:
        name, path = _parse(clip)
        key, cache = (cue, name), self._caches[cue]
        if key not in self._names:
            self._names[key] = _find(cache, name)
        shard = cache.shard(self._names[key])
        shard.require(self._specs(cue, shard.frames))
        if path is not None and key not in self._checked and path.exists():
            complaint = f"The cue cache of {cue} does not fit {path}: the video is another one"
            require_equal(shard.video, stamp(path), complaint, "Run `dense-ctx cues` again")
            self._checked.add(key)
        return shard

    def _specs(self, cue: str, frames: int) -> dict[str, Spec]:
        manifest = self._manifests[cue]
        if not manifest["pair"]:
            return specs(frames, 1, manifest["channels"])
        return specs(rows(frames, manifest["gaps"]), 2 if manifest["antisymmetric"] else 4, manifest["channels"])


def _find(cache: DiskCache[ClipShard], name: str) -> str:
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
    for start in range(len(parts)):
        below = "/".join(parts[start:])
        if cache.path(below).is_file():
            return below
    raise FileError(f"The cue cache {cache.folder} has no clip {name!r}: run `dense-ctx cues` on its video")


def _others(folder: Path) -> str:
    cues = sorted(path.parent.name.replace("@", ":") for path in folder.glob("*/manifest.json"))
    return f"; it has {', '.join(cues)}" if cues else ""


def _parse(clip: str | os.PathLike[str] | Clip) -> tuple[str, Path | None]:
    """A clip's name, without suffix, and where its video is, if that is known."""
    if isinstance(clip, (str, os.PathLike)):
        path = Path(clip)
        is_file = path.is_file()
        return (path.with_suffix("") if is_file else path).as_posix(), path if is_file or path.is_dir() else None
    return clip.name, clip.video or (Path(clip.frames[0]).parent if clip.frames else None)
