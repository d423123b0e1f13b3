"""What the cells of a benchmark share on disk: features of each backbone, targets of each task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from dense_ctx.data import ImageSet
from dense_ctx.data.features import plan_features
from dense_ctx.files import state_digest
from dense_ctx.interfaces import Backbone, Size
from dense_ctx.model import DenseModel

from .plan import Bench, Cell, digest


@dataclass(frozen=True)
class Store:
    """Folders of one backbone's features and one task's targets; `name` is that of a part of the images."""

    features: Path
    targets: Path
    layers: str

    @classmethod
    def of(cls, bench: Bench, cell: Cell, backbone: Backbone, image_size: Size) -> Store:
        """An untrained backbone is another one for each seed, so its weights and not its name decide."""
        images = [cell.task.data, cell.task.train, cell.task.val, bench.held_out]
        return cls(
            bench.out / "features" / digest([state_digest(backbone.state_dict()), image_size, images]),
            bench.out / "targets" / digest([cell.task.objective, bench.size, images]),
            digest(cell.head.args.get("layers")),  # heads that read other maps need other files
        )

    def cache(self, name: str) -> str:
        """Of the features."""
        return str(self.features / f"{name}-{self.layers}")

    def kept(self, name: str) -> str:
        """Of the targets."""
        return str(self.targets / name)

    def fill(self, name: str, model: DenseModel, images: ImageSet, image_size: Size) -> None:
        """Compute the features that are missing; of several processes one does, the others wait for it.

        Raises:
            FileError, InputError: as `dense_ctx.data.features.plan_features`.
        """
        if not len(images):
            return
        layers = tuple(getattr(model.decoder, "layers", range(len(model.backbone.dims))))
        config = model.model_config
        self.features.mkdir(parents=True, exist_ok=True)
        with FileLock(self.features / f".{name}-{self.layers}.lock"):
            plan = plan_features(
                model.backbone, images, self.cache(name), image_size, layers,
                name=None if config is None else config.backbone.name,
            )  # fmt: skip
            with tqdm(total=plan.left, desc=f"features, {name}", unit="image", disable=not plan.left) as bar:
                plan.run(bar.update)
