"""Open clips: folders, files, data sets, or a list of these."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dense_ctx.data import Clip, VideoSet, layout, open_set
from dense_ctx.data.video import VIDEO_SUFFIXES
from dense_ctx.errors import InputError

from .cue_cache.clips import below


def open_clips(data: Any) -> VideoSet:
    """The clips of folders, files and data sets.

    Args:
        data: a folder of clips, a video file, or the folder of one clip's frames; {"root": ..., "layout": ...,
            "split": ...} with a layout of `dense_ctx.data` ("clips", "youtube-vos", "kinetics700"), one of its splits
            or a list of them, and its options ("frames": "all"); a VideoSet; or a list of these. In a list a clip's
            name begins with that of its folder.

    Raises:
        InputError: something else, or two clips of one name.
        FileError: nothing there.
    """
    if not isinstance(data, (list, tuple)):
        return _open(data)
    if not data:
        raise InputError("LILA trains on clips; the list of folders is empty")
    parts = []
    for item in data:
        part, folder = _open(item), _folder(item)
        renamed = (replace(clip, name=f"{folder}/{clip.name}" if folder else clip.name) for clip in part.clips)
        parts.append(replace(part, clips=tuple(renamed)))
    return _union(parts)


def _union(parts: Sequence[VideoSet]) -> VideoSet:
    if len(parts) == 1:
        return parts[0]
    clips = tuple(clip for part in parts for clip in part.clips)
    count = Counter(clip.name for clip in clips)
    twice = sorted(name for name, times in count.items() if times > 1)
    if twice:
        raise InputError(f"Two clips are called {', '.join(twice[:3])}: name a folder above both, or rename one folder")
    return VideoSet(clips, problems=tuple(problem for part in parts for problem in part.problems))


def _open(data: Any) -> VideoSet:
    if isinstance(data, VideoSet):
        return data
    if isinstance(data, (str, os.PathLike)):
        path = Path(data)
        if path.is_dir() and next(below(path), None) == path:
            return VideoSet((Clip(path.resolve().name, video=path),))
        if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
            return VideoSet((Clip(path.stem, video=path),))
        data = {"root": data}
    if not isinstance(data, Mapping) or data.get("root") is None:
        raise InputError(
            f"LILA trains on clips: a folder, {{root: ..., layout: ..., split: ...}}, or a list of these; got {data!r}"
        )
    name, splits = data.get("layout", "clips"), data.get("split")
    options = {key: value for key, value in data.items() if key not in ("root", "layout", "split")}
    keys = [option for option, _ in layout(name).options]
    if unknown := sorted(set(options) - set(keys)):
        keys = ["root", "layout", "split", *keys]
        raise InputError(f"data has unknown keys {', '.join(unknown)}; known: {', '.join(keys)}")
    parts = []
    for split in splits if isinstance(splits, (list, tuple)) else [splits]:
        videos = open_set(name, data["root"], split, **options)
        if not isinstance(videos, VideoSet):
            raise InputError(f"{name} holds images; LILA trains on clips")
        parts.append(videos)
    return _union(parts)


def _folder(data: Any) -> str:
    """The name of the folder that clips come from; "" where none is named."""
    if isinstance(data, VideoSet):
        return ""
    path = Path(data["root"] if isinstance(data, Mapping) else data).resolve()
    return path.parent.name if path.is_file() else path.name
