"""The folder of DIP's tasks: which file each stage writes, and which process writes it.

    segment   segments/IMAGE.png            class-agnostic segments
    embed     embeddings/SHARD.safetensors  mean feature of each segment, global feature of each image
    cluster   centroids.safetensors         k-means of the segments' features: the pseudo-classes
    vote      labels/IMAGE.png, votes/SHARD.json   nearest centroid of each patch, majority in each segment
    pair      pairs.jsonl                   neighbours that share a class

A shard is 256 images. Finished files stay, whoever wrote them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dense_ctx.data.cache import Shard
from dense_ctx.device import processes
from dense_ctx.files import read_json
from dense_ctx.persistence.tensors import Spec

from .task_settings import find_images

SHARD = 256  # images
EMBEDDINGS: Mapping[str, Spec] = {
    "segments": (torch.float16, ("segments", "C")),
    "images": (torch.float16, ("images", "D")),
    "index": (torch.int64, ("images", 2)),  # of each image: its number, and that of its segments
}
CENTROIDS: Mapping[str, Spec] = {"centroids": (torch.float32, ("classes", "C"))}
Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]
Dir: TypeAlias = "str | os.PathLike[str]"


class TaskFolder:
    """Files of the tasks of one folder of images; the shards are divided among the processes.

    Args:
        images: folder, searched with its subfolders.
        out: what is written.
        progress: (iterable, total, what) -> iterable, for bars.

    Raises:
        FileError: no images.
    """

    def __init__(self, images: Dir, out: Dir, progress: Progress | None = None) -> None:
        self.images, self.out = Path(images).resolve(), Path(out)
        self.names = find_images(self.images)
        self.rank, self.world = processes()
        self.progress: Progress = progress or (lambda items, total, what: items)

    def shards(self) -> dict[str, range]:
        """Name and images of each shard."""
        starts = range(0, len(self.names), SHARD)
        return {f"shard-{start // SHARD:05d}": range(start, min(start + SHARD, len(self.names))) for start in starts}

    def todo(self, done: Callable[[str], bool]) -> list[tuple[str, int, bool]]:
        """(shard, image, whether it is the shard's last) of this process' shards that are not done."""
        mine = list(self.shards().items())[self.rank :: self.world]
        return [(shard, index, index == span[-1]) for shard, span in mine if not done(shard) for index in span]

    def png(self, folder: str, index: int) -> Path:
        """The file of an image in `segments` or `labels`."""
        return self.out / folder / f"{self.names[index]}.png"

    def embeddings(self, shard: str) -> Path:
        """The file of a shard's features."""
        return self.out / "embeddings" / f"{shard}.safetensors"

    def votes(self, shard: str) -> Path:
        """The file of the shares of the classes in a shard's images."""
        return self.out / "votes" / f"{shard}.json"

    def whole(self) -> tuple[list[int], Tensor, Sequence[Mapping[int, float]]]:
        """Indices, global features, and shares of classes of all usable images."""
        index, features, shares = [], [], []
        for shard in self.shards():
            embeddings = Shard(self.embeddings(shard)).require(EMBEDDINGS)
            votes = read_json(self.votes(shard))
            for feature, (image, _) in zip(
                embeddings.tensor("images"), embeddings.tensor("index").tolist(), strict=True
            ):
                index.append(image)
                features.append(feature)
                shares.append({int(key): share for key, share in votes.get(str(image), {}).items()})
        return index, torch.stack(features) if features else torch.empty(0, 1), shares
