"""The clips that the user names: folders, files, data sets, or a list of these."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dense_ctx.data import Clip, VideoSet, open_set
from dense_ctx.data.video import VIDEO_SUFFIXES
from dense_ctx.errors import InputError


def open_clips(data: Any) -> VideoSet:
    """Clips of what the user names.

    Args:
        data: a folder of clips, or a video file; {"root": ..., "layout": ..., "split": ...} with a layout of
            `dense_ctx.data` ("clips", "youtube-vos", "kinetics700"); a VideoSet; or a list of these. In a list a
            clip's name begins with that of its folder.

    Raises:
        InputError: something else, or two clips of one name.
        FileError: nothing there.
    """
    if not isinstance(data, (list, tuple)):
        return _open(data)
    if not data:
        raise InputError("LILA trains on clips; the list of folders is empty")
    clips, problems = [], []
    for item in data:
        part = _open(item)
        problems += part.problems
        folder = _folder(item)
        clips += [replace(clip, name=f"{folder}/{clip.name}" if folder else clip.name) for clip in part.clips]
    names = [clip.name for clip in clips]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InputError(f"Two clips are called {', '.join(twice[:3])}: name a folder above both, or rename one folder")
    return VideoSet(tuple(clips), problems=tuple(problems))


def _open(data: Any) -> VideoSet:
    if isinstance(data, VideoSet):
        return data
    if isinstance(data, (str, os.PathLike)):
        path = Path(data)
        if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
            return VideoSet((Clip(path.stem, video=path),))
        data = {"root": data}
    if not isinstance(data, Mapping) or data.get("root") is None:
        raise InputError(
            f"LILA trains on clips: a folder, {{root: ..., layout: ..., split: ...}}, or a list of these; got {data!r}"
        )
    unknown = set(data) - {"root", "layout", "split"}
    if unknown:
        raise InputError(f"data has unknown keys {', '.join(sorted(unknown))}; known: root, layout, split")
    videos = open_set(data.get("layout", "clips"), data["root"], data.get("split"))
    if not isinstance(videos, VideoSet):
        raise InputError(f"{data.get('layout')} holds images; LILA trains on clips")
    return videos


def _folder(data: Any) -> str:
    """The name of the folder that clips come from; "" where none is named."""
    if isinstance(data, VideoSet):
        return ""
    path = Path(data["root"] if isinstance(data, Mapping) else data).resolve()
    return path.parent.name if path.is_file() else path.name
