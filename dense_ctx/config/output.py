"""Output: what the channels of a trained head mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..errors import ConfigError

Quantity: TypeAlias = Literal["segmentation", "depth", "normals", "regression"]


@dataclass(frozen=True)
class Output:
    """What a model predicts, in its config.json; null there for one whose channels are features.

    task: "segmentation" (a score for each class), "depth" (metres), "normals" (vectors) or "regression" (values).
    classes: names, in the order of the channels.
    image_size, size: (H, W) to which images were resized in training, and of the outputs; null: their own.
    sigmoid: the channels are logits of shares between 0 and 1.
    """

    task: Quantity
    classes: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    sigmoid: bool = False

    def __post_init__(self) -> None:
        if (self.task == "segmentation") != bool(self.classes):
            raise ConfigError(f"output.task is {self.task} and output.classes {list(self.classes)!r:.80}: one a class")
        for size in (self.image_size, self.size):
            if size is not None and not all(1 <= side <= 16_384 for side in size):
                raise ConfigError(f"output: {size} is not a (H, W) of 1 to 16384 pixels")
