"""Annotated images and clips, by the name of a data set; nothing is downloaded.

    from dense_ctx import data
    data.names()                                  # "acdc", "ade20k", ...
    print(data.layout("davis2017").describe())    # what is expected where
    val = data.open_set("camvid", "data/camvid")  # an ImageSet: val[0].image, val[0].target

Importing this package, `names` and `layout` load no torch.
"""

from __future__ import annotations

from .base import Clip, DatasetReader, ImageSet, Kind, Layout, Sample, Subset, VideoSet
from .open import layout, list_set, names, open_set, published

__all__ = [
    "Clip", "DatasetReader", "ImageSet", "Kind", "Layout", "Sample", "Subset", "VideoSet", "layout", "list_set",
    "names", "open_set", "published",
]  # fmt: skip
