"""Caches that the cells of a benchmark share: features of each backbone, targets of each task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from dense_ctx.data import ImageSet
from dense_ctx.data.features import FeatureCache, cache_features
from dense_ctx.files import state_digest
from dense_ctx.interfaces import Backbone, Size
from dense_ctx.model import DenseModel

from .plan import Bench, Cell, digest


@dataclass(frozen=True)
class Store:
    """One backbone's features and one task's targets.

    features, targets: folders. image_size: (H, W) that the features are of.
    """

    features: Path
    targets: Path
    image_size: Size

    @classmethod
    def of(cls, bench: Bench, cell: Cell, backbone: Backbone, image_size: Size) -> Store:
        """An untrained backbone is another one for each seed, so its weights and not its name decide."""
        task = cell.task
        images = [task.data, task.train, task.val, bench.held_out, task.images]
        return cls(
            bench.out / "features" / digest([state_digest(backbone.state_dict()), image_size, images]),
            bench.out / "targets" / digest([task.objective, dict(task.args), bench.size, images]),
            image_size,
        )

    def open(self, name: str, model: DenseModel, images: ImageSet) -> FeatureCache | None:
        """Features of the maps that the decoder reads; of several processes one computes them, the others wait.

        Args:
            name: of the images: "train", "held-out" or "val".

        Returns:
            None of no images.

        Raises:
            FileError, InputError: as `dense_ctx.data.features.cache_features`.
        """
        if not len(images):
            return None
        layers = model.decoder.layers  # decoders that read other maps need other files
        folder = self.features / f"{name}-{digest(layers if layers is None else sorted(layers))}"
        self.features.mkdir(parents=True, exist_ok=True)
        with FileLock(self.features / f".{folder.name}.lock"):
            return cache_features(model, images, folder, self.image_size)
