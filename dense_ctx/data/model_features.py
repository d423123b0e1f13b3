"""cache_features: fill and open the feature cache of the maps that a model's decoder reads."""

from __future__ import annotations

import os

from ..device import processes, wait_for_everyone
from ..interfaces import Size
from ..model import DenseModel
from ..progress import progress
from .base import ImageSet
from .features import FeatureCache, plan_features


def cache_features(model: DenseModel, images: ImageSet, folder: str | os.PathLike[str], size: Size) -> FeatureCache:
    """Fill a feature cache, all processes together, with a progress bar on stderr; then open it.

    Args:
        model: with its weights, on the device where it runs. The maps are those that `Decoder.layers` names.
        images: resized to `size`.
        folder: of these images alone; a second call computes what is missing.

    Raises:
        ConfigError: the folder is a cache of something else; the message names what differs.
        FileError: not enough space on the disk, it is not writable, or an image cannot be read.
        InputError: no images, or maps beyond the range of float16.
    """
    depth, layers = len(model.backbone.dims), model.decoder.layers
    indices = range(depth) if layers is None else sorted({layer % depth for layer in layers})
    name = None if model.model_config is None else model.model_config.backbone.name
    rank, world = processes()
    plan = plan_features(model.backbone, images, folder, size, indices, name=name, rank=rank, world=world)
    with progress(None, plan.left, "features") as bar:
        plan.run(bar.update)
    wait_for_everyone()
    return FeatureCache(folder, model.backbone, images, size, indices, name=name)
