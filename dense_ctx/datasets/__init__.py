"""Data sets in their official layouts; nothing is downloaded.

    from dense_ctx import datasets
    datasets.names()                                  # "acdc", "ade20k", ...
    print(datasets.layout("davis2017").describe())    # what is expected where
    val = datasets.open_set("camvid", "data/camvid")  # an ImageSet: val[0].image, val[0].target
    print(datasets.check_root("camvid", "data/camvid").text())

Importing this package, `names` and `layout` load no torch.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import FileError, InputError, UnknownNameError
from .base import Clip, ImageSet, Kind, Layout, Sample, VideoSet
from .check import Report, check_root

__all__ = [
    "Clip",
    "ImageSet",
    "Kind",
    "Layout",
    "Report",
    "Sample",
    "VideoSet",
    "check_root",
    "layout",
    "names",
    "open_set",
]

Opener = Callable[..., "ImageSet | VideoSet"]

# name -> module, its Layout, its function (root, split, **options)
_SETS = {
    "acdc": ("driving", "ACDC", "open_acdc"),
    "ade20k": ("ade20k", "ADE20K", "open_ade20k"),
    "camvid": ("driving", "CAMVID", "open_camvid"),
    "cityscapes": ("driving", "CITYSCAPES", "open_cityscapes"),
    "cityscapes-acdc": ("driving", "CITYSCAPES_ACDC", "open_cityscapes_acdc"),
    "clips": ("clips", "CLIPS", "open_clips"),
    "coco-instances": ("coco", "INSTANCES", "open_instances"),
    "coco-stuff171": ("coco", "STUFF171", "open_stuff171"),
    "coco-stuff27": ("coco", "STUFF27", "open_stuff27"),
    "davis2016": ("davis", "DAVIS2016", "open_2016"),
    "davis2017": ("davis", "DAVIS2017", "open_2017"),
    "image-folder": ("folders", "IMAGE_FOLDER", "open_image_folder"),
    "kinetics700": ("clips", "KINETICS700", "open_kinetics700"),
    "nyuv2": ("nyuv2", "NYUV2", "open_nyuv2"),
    "pascal-context": ("voc", "PASCAL_CONTEXT", "open_pascal_context"),
    "rgbd-folder": ("rgbd", "RGBD_FOLDER", "open_rgbd_folder"),
    "voc2012": ("voc", "VOC2012", "open_voc2012"),
    "vos-folder": ("clips", "VOS_FOLDER", "open_vos_folder"),
    "youtube-vos": ("clips", "YOUTUBE_VOS", "open_youtube_vos"),
}


def names() -> list[str]:
    """Names of all data sets."""
    return sorted(_SETS)


def layout(name: str) -> Layout:
    """What a data set's root holds, and where the data set is had.

    Raises:
        UnknownNameError: no such data set; with the closest names.
    """
    found: Layout = _entry(name, 1)
    return found


def open_set(name: str, root: str | os.PathLike[str], split: str | None = None, **options: Any) -> ImageSet | VideoSet:
    """Open a data set that lies under `root` in its official layout.

    Args:
        split: one of `layout(name).splits`; default the first.
        options: of this data set, see `layout(name).options`.

    Raises:
        UnknownNameError: no such data set.
        FileError: the root has not the layout, or files are missing; the message names the first ones.
        InputError: no such split or option.
        MissingDependencyError: the data set's files are read by a package that is not installed.
    """
    found = list_set(name, root, split, **options)
    if found.problems:
        more = f"\n  ... and {len(found.problems) - 5} more" if len(found.problems) > 5 else ""
        listed = "\n  ".join(found.problems[:5])
        raise FileError(
            f"{name} under {root} is incomplete:\n  {listed}{more}\n"
            f"`dense-ctx datasets {name} {root}` lists everything that is wrong"
        )
    return found


def list_set(name: str, root: str | os.PathLike[str], split: str | None = None, **options: Any) -> ImageSet | VideoSet:
    """As `open_set`, but missing files stay in `.problems` and the rest can be read."""
    opener: Opener = _entry(name, 2)
    allowed = [key for key in inspect.signature(opener).parameters if key not in ("root", "split")]
    unknown = [key for key in options if key not in allowed]
    if unknown:
        raise InputError(f"{name} has no option {unknown[0]!r}; it has {', '.join(allowed) or 'none'}")
    return opener(Path(root), split, **options)


def _entry(name: str, part: int) -> Any:
    if name not in _SETS:
        close = difflib.get_close_matches(name, _SETS, n=3, cutoff=0.0)
        raise UnknownNameError(f"No data set {name!r}. Closest: {', '.join(close)}. All: dense-ctx datasets")
    entry = _SETS[name]
    return getattr(importlib.import_module(f".{entry[0]}", __name__), entry[part])
