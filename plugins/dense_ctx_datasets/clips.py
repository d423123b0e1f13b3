"""Video data sets other than DAVIS: YouTube-VOS, Kinetics-700, folders of clips, folders of frames with masks."""

from __future__ import annotations

import json
from pathlib import Path

from dense_ctx.data.base import Clip, DatasetReader, Layout, VideoSet, choose
from dense_ctx.errors import FileError

from .davis import sequence_set, video_set
from .files import pick, require
from .pairs import images_in

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".gif", ".y4m"})


class YoutubeVos(DatasetReader):
    """`youtube-vos`."""

    layout = Layout(
        name="youtube-vos",
        title="YouTube-VOS 2019",
        kind="video",
        url="https://youtube-vos.org",
        licence="CC BY 4.0 for the annotations, non-commercial research for the videos: read the site's terms",
        splits=("train", "valid", "test"),
        expected=(
            ("<split>/JPEGImages/<id>/00000.jpg", "frames (every fifth)"),
            ("<split>_all_frames/JPEGImages/<id>/00000.jpg", 'with frames="all": every frame'),
            ("<split>/Annotations/<id>/00000.png", 'palette masks, of some frames; with frames="all" not needed'),
            ("<split>/meta.json", "videos and their objects; names the videos when it is there"),
        ),
        counts={"train": 3471, "valid": 507, "test": 541},
        options=(("frames", '"annotated" (default): the split\'s own; "all": those of <split>_all_frames'),),
    )

    def open(self, root: Path, split: str | None = None, frames: str = "annotated") -> VideoSet:
        """YouTube-VOS; objects may appear after the first frame."""
        split = choose(split, self.layout)
        pick(frames, ("annotated", "all"), "frames", self.layout)
        folder = require(root / (split if frames == "annotated" else f"{split}_all_frames") / "JPEGImages", self.layout)
        masks = root / split / "Annotations"
        annotated = frames == "annotated" or masks.is_dir()
        if annotated:
            require(masks, self.layout)
        meta = root / split / "meta.json"
        names = _videos(meta) if meta.is_file() else []
        names = names or sorted(path.name for path in folder.iterdir() if path.is_dir())
        folders = [(name, folder / name, masks / name if annotated else None) for name in names]
        return sequence_set(folders, self.layout, source=meta)


def _videos(path: Path) -> list[str]:
    try:
        return sorted(json.loads(path.read_text(encoding="utf-8"))["videos"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f'{path} is damaged: expected {{"videos": {{id: ...}}}}; {error!r}') from error


class Kinetics700(DatasetReader):
    """`kinetics700`."""

    layout = Layout(
        name="kinetics700",
        title="Kinetics-700",
        kind="video",
        url="https://github.com/cvdfoundation/kinetics-dataset",
        licence="CC BY 4.0 for the annotations; the videos are their uploaders'",
        splits=("train", "val", "test"),
        expected=(("<split>/<class>/<clip>.mp4", "clips; the test split may lie without class folders"),),
        counts={"train": 545317, "val": 35000, "test": 70000},
    )

    def open(self, root: Path, split: str | None = None) -> VideoSet:
        """Kinetics-700: clips named "class/clip"; classes are the folders' names."""
        folder = require(root / choose(split, self.layout), self.layout)
        clips = [Clip(path.stem, video=path) for path in _video_files(folder)]
        classes = sorted(path for path in folder.iterdir() if path.is_dir())
        problems = []
        for one in classes:
            files = _video_files(one)
            clips += [Clip(f"{one.name}/{path.stem}", video=path) for path in files]
            problems += [] if files else [f"the class folder {one} holds no video"]
        return video_set(clips, problems, self.layout, [path.name for path in classes])


class Clips(DatasetReader):
    """`clips`."""

    layout = Layout(
        name="clips",
        title="A folder of clips",
        kind="video",
        url="your own files",
        licence="your own files",
        splits=("all",),
        expected=(
            ("<clip>.mp4", "video files (.mp4 .mov .mkv .avi .webm ...)"),
            ("<clip>/*.jpg", "or folders of frames"),
        ),
    )

    def open(self, root: Path, split: str | None = None) -> VideoSet:
        """Video files and folders of frames, without labels."""
        choose(split, self.layout)
        require(root, self.layout)
        clips = [Clip(path.stem, video=path) for path in _video_files(root)]
        problems = []
        for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
            frames = tuple(images_in(folder))
            if frames:
                clips.append(Clip(folder.name, frames, (None,) * len(frames)))
            else:
                problems.append(f"the clip {folder.name!r} has no frames in {folder}")
        return video_set(sorted(clips, key=lambda clip: clip.name), problems, self.layout)


class VosFolder(DatasetReader):
    """`vos-folder`."""

    layout = Layout(
        name="vos-folder",
        title="Frames with masks",
        kind="video",
        url="your own files",
        licence="your own files",
        splits=("all",),
        expected=(
            ("frames/*.jpg, masks/*.png", "one sequence; masks of the same stems, 0 background, 1..n objects"),
            ("<sequence>/frames/*.jpg, <sequence>/masks/*.png", "or several"),
        ),
        options=(("binary", "true: every mask value above 0 is object 1"),),
    )

    def open(self, root: Path, split: str | None = None, binary: bool = False) -> VideoSet:
        """One sequence, or a folder of sequences, each with frames/ and masks/."""
        choose(split, self.layout)
        require(root, self.layout)
        if (root / "frames").is_dir():
            folders = [root]
        else:
            folders = sorted(path for path in root.iterdir() if (path / "frames").is_dir())
        clips = [(folder.resolve().name, folder / "frames", folder / "masks") for folder in folders]
        return sequence_set(clips, self.layout, binary=binary)


def _video_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
