"""Some images of a data set."""

from __future__ import annotations

from collections.abc import Sequence

from .base import ImageSet, Sample


class Subset(ImageSet):
    """Some images of a data set, by their indices.

    Args:
        images: the data set.
        indices: of the images, in the order they are to have here.
    """

    def __init__(self, images: ImageSet, indices: Sequence[int]) -> None:
        self.images, self.indices = images, list(indices)
        self.kind, self.classes = images.kind, images.classes
        self.names = [images.names[index] for index in self.indices]

    def __getitem__(self, index: int) -> Sample:
        return self.images[self.indices[index]]
