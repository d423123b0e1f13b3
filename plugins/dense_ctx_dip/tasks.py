"""Automatic in-context tasks from unlabelled images (DIP, section 3.2), in resumable stages.

Files of the stages: `task_folder`. Memory holds features of some images (1 GB), the sample for k-means, and the global
features. Several processes share out the shards and wait for one another after each stage.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import torch
from dense_ctx_predict.batches import batches, results
from einops import rearrange
from torch import Tensor

from dense_ctx.data.cache import Shard, write_shard
from dense_ctx.device import wait_for_everyone
from dense_ctx.errors import DenseCtxError, FileError, InputError
from dense_ctx.files import new_file, state_digest, write_json
from dense_ctx.gateway import gateway
from dense_ctx.model import DenseModel
from dense_ctx.persistence.lock import locked
from dense_ctx.plugins import blamed, registry
from dense_ctx.progress import ahead
from dense_ctx.train.data import reader_count

from .kmeans import SAMPLE, assign, kmeans
from .manifest import claim, compare
from .positives import positive_pairs
from .segmenters import Segmenter, check_segments
from .soft_labels import pixels_of
from .task_files import read_pseudo_labels, save_pseudo_labels
from .task_folder import CENTROIDS, EMBEDDINGS, Dir, TaskFolder
from .task_settings import TaskSettings, read_image

BATCH = 8  # images cut into segments together
MANY = 65535  # segments of an image, at most
MEMORY = 1 << 30  # bytes of feature maps held from stage to stage, so that small sets are encoded once
Encoded: TypeAlias = "tuple[Tensor, Tensor]"  # an image's deepest map [C, h, w] and global feature [C']


class Tasks(TaskFolder):
    """Makes the tasks of one folder of images.

    Args:
        images, out, progress: see `TaskFolder`.
        model: its backbone's deepest map and global feature are used.
        settings: of the stages.
        name: of the model, for the manifest.

    Raises:
        FileError: no images, or `out` is in use.
        ConfigError: `out` holds tasks of other settings.
    """

    def __init__(
        self, images: Dir, out: Dir, model: DenseModel, settings: TaskSettings, name: str = "", progress: Any = None
    ) -> None:
        super().__init__(images, out, progress)
        self.model, self.settings = model.eval(), settings
        self._encoded: dict[int, Encoded] = {}
        self._budget = MEMORY
        self._together = BATCH if model.device.type == "cuda" else 1  # images of one size encoded at once
        part = settings.segmenter
        self.segmenter: Segmenter = registry().create("segmenter", part.name, **part.args).to(model.device)
        weights = {"model": name, "weights": state_digest(model.state_dict())}
        listing = hashlib.sha256("\n".join(self.names).encode()).hexdigest()
        self.identity: dict[str, dict[str, Any]] = {
            "segment": {
                "images": str(self.images), "names": listing, "count": len(self.names), "side": settings.side,
                "segmenter": part.name, "args": json.loads(json.dumps(dict(part.args))),
                "stride": model.backbone.stride, **(weights if self.segmenter.reads_features else {}),
            },
            "embed": weights,
            "cluster": {key: asdict(settings)[key] for key in ("classes", "subset", "iterations", "seed", "kmeans")},
            "vote": {},
            "pair": {"neighbours": settings.neighbours, "shared": settings.shared},
        }  # fmt: skip
        compare(self.out, self.identity)  # each process refuses other settings, before any of them writes
        wait_for_everyone()
        if self.rank == 0:
            claim(self.out, self.identity)
        wait_for_everyone()

    def _image(self, index: int) -> Tensor:
        return read_image(self.images / self.names[index], self.settings.side, self.model.backbone.stride)

    def _readable(self, index: int) -> Tensor | DenseCtxError:
        try:
            return self._image(index)
        except (FileError, InputError) as error:
            return error

    @torch.no_grad()
    def _encode(self, images: Tensor) -> list[Encoded]:
        """Of each of [B, 3, H, W]."""
        features, _ = self.model.encode(images)
        deep = features.maps[-1].float()
        return list(zip(deep, deep.mean((2, 3)) if features.cls is None else features.cls.float(), strict=True))

    def _features(self, some: Sequence[tuple[int, Any]]) -> Iterator[Encoded]:
        """Of images of one size, with their numbers; what fits into memory is held."""
        images = [image for _, image in some]
        each = results(images, self._encode, lambda image: self._encode(image[None])[0])
        for (index, _), (deep, whole) in zip(some, each, strict=True):
            size = sum(item.numel() * item.element_size() for item in (deep, whole))
            if size <= self._budget:
                self._encoded[index] = deep.clone(), whole.clone()  # not views of a whole batch
                self._budget -= size
            yield deep, whole

    def _segmented_images(self, done: Callable[[str], bool], what: str) -> Iterator[tuple[str, int, bool, Any]]:
        """(shard, image, whether it is the shard's last, its `Encoded`; None: no segments) of what is not done."""
        left = self.todo(done)

        def read(item: tuple[str, int, bool]) -> Tensor | Encoded | None:
            if not self.png("segments", item[1]).exists():
                return None
            return self._encoded.get(item[1]) or self._image(item[1])

        def encoded() -> Iterator[tuple[str, int, bool, Any]]:
            for some in batches(self.model, left, read, lambda size: self._together):
                first = some[0][1]
                values: Iterable[Any] = [first]
                if isinstance(first, Tensor):
                    values = self._features([(index, image) for (_, index, _), image in some])
                yield from ((*item, value) for (item, _), value in zip(some, values, strict=True))

        yield from self.progress(encoded(), len(left), what)

    def run(self) -> Path:
        """All stages; returns the folder."""
        with locked(self.out / f"process-{self.rank}", f"The tasks {self.out}"):
            for stage in (self.segment, self.embed, self.cluster, self.vote, self.pair):
                stage()
                wait_for_everyone()
        return self.out

    def segment(self) -> None:
        """Write the segments of each image; one that cannot be read is left out with a warning."""
        broken, first = 0, ""
        mine = [i for span in list(self.shards().values())[self.rank :: self.world] for i in span]
        rest = [index for index in mine if not self.png("segments", index).exists()]
        waiting: list[tuple[int, Tensor]] = []
        images = ahead(self._readable, rest, BATCH, max(1, reader_count(self.model.device)))
        for index in self.progress(rest, len(rest), "segment"):
            image = next(images)
            if isinstance(image, Tensor):
                waiting.append((index, image))
            else:
                warnings.warn(f"{self.names[index]} is left out: {image}", stacklevel=2)
                broken, first = broken + 1, first or str(image)
            if len(waiting) == BATCH or index == rest[-1]:
                self._segmented(waiting)
                waiting = []
        if self.world == 1 and mine and broken == len(mine):
            raise FileError(f"None of {len(mine)} images is usable; the first: {first}")

    def _segmented(self, items: list[tuple[int, Tensor]]) -> None:
        reads, device = self.segmenter.reads_features, self.model.device
        features: list[Tensor | None] = [None] * len(items)
        if reads:
            runs = groupby(items, lambda item: item[1].shape if self._together > 1 else item[0])
            features = [deep for _, run in runs for deep, _ in self._features(list(run))]
        sizes = [(image.shape[-2], image.shape[-1]) for _, image in items]
        with blamed("segmenter", self.settings.segmenter.name):
            batch = self.segmenter.batch([image.to(device) for _, image in items], features, sizes)
        for (index, _), segments, size in zip(items, batch, sizes, strict=True):
            check_segments(self.segmenter, segments, size)
            count = int(segments.max()) + 1
            if count > MANY:
                raise InputError(f"{self.names[index]} has {count} segments; expected up to {MANY}")
            save_pseudo_labels(self.png("segments", index), segments, max(1, count))

    def embed(self) -> None:
        """Write a shard's mean features of segments, and global features; float16."""
        rows: list[Tensor] = []
        images: list[Tensor] = []
        counts: list[tuple[int, int]] = []
        for shard, index, last, both in self._segmented_images(lambda name: self.embeddings(name).exists(), "embed"):
            if both is not None:
                deep, whole = both
                segments = read_pseudo_labels(self.png("segments", index)).to(deep.device)
                weights = pixels_of(segments, (deep.shape[-2], deep.shape[-1]))
                total = weights.sum(1)
                means = ((weights @ rearrange(deep, "c h w -> (h w) c")) / total.clamp_min(1)[:, None])[total > 0]
                rows.append(means.cpu())
                images.append(whole.cpu())
                counts.append((index, len(means)))
            if last:
                write_shard(self.embeddings(shard), {
                    "segments": torch.cat(rows).half() if rows else torch.empty(0, self.model.backbone.dims[-1]).half(),
                    "images": torch.stack(images).half() if images else torch.empty(0, 0).half(),
                    "index": torch.tensor(counts, dtype=torch.int64).reshape(-1, 2),
                })  # fmt: skip
                rows, images, counts = [], [], []

    def cluster(self) -> None:
        """k-means of the segments' features, those of at most `subset` images; by the first process."""
        path = self.out / "centroids.safetensors"
        if self.rank or path.exists():
            return
        settings, generator = self.settings, torch.Generator().manual_seed(self.settings.seed)
        in_subset = torch.zeros(len(self.names), dtype=torch.bool)
        in_subset[torch.randperm(len(self.names), generator=generator)[: settings.subset]] = True
        # only as many rows are held as k-means uses: a random share of each image's, drawn on reading
        indices = [Shard(self.embeddings(shard)).require(EMBEDDINGS).tensor("index") for shard in self.shards()]
        count = sum(int(index[in_subset[index[:, 0]], 1].sum()) for index in indices)
        share = min(1.0, SAMPLE * settings.classes / max(1, count))
        rows = []
        for shard in self.progress(self.shards(), len(indices), "cluster"):
            embeddings = Shard(self.embeddings(shard)).require(EMBEDDINGS)
            segments, index = embeddings.tensor("segments"), embeddings.tensor("index")
            use = in_subset[index[:, 0]].repeat_interleave(index[:, 1])
            if share < 1:
                use &= torch.rand(len(use), generator=generator) < share
            rows.append(segments[use].float())
        centroids = kmeans(torch.cat(rows), settings.classes, settings.iterations, settings.seed, settings.kmeans)
        write_shard(path, {"centroids": centroids})

    def vote(self) -> None:
        """Write each image's pseudo-classes, and which share of it each covers."""
        centroids = (
            Shard(self.out / "centroids.safetensors").require(CENTROIDS).tensor("centroids").to(self.model.device)
        )
        shares: dict[str, dict[int, float]] = {}
        for shard, index, last, both in self._segmented_images(lambda name: self.votes(name).exists(), "vote"):
            if both is not None:
                labels = self._voted(index, both[0], centroids)
                save_pseudo_labels(self.png("labels", index), labels, self.settings.classes)
                classes, sizes = labels[labels >= 0].unique(return_counts=True)
                shares[str(index)] = dict(zip(classes.tolist(), (sizes / labels.numel()).tolist(), strict=True))
            if last:
                write_json(self.votes(shard), shares)
                shares = {}

    def _voted(self, index: int, deep: Tensor, centroids: Tensor) -> Tensor:
        segments = read_pseudo_labels(self.png("segments", index))
        if int(segments.max()) < 0:
            return segments  # no segment: nothing is labelled
        weights = pixels_of(segments.to(deep.device), (deep.shape[-2], deep.shape[-1]))
        nearest, _ = assign(rearrange(deep, "c h w -> (h w) c"), centroids)
        # pixels of each (segment, class); few of the classes occur
        present, positions = nearest.unique(return_inverse=True)
        votes = torch.zeros(len(weights), len(present), device=deep.device).index_add_(1, positions, weights)
        winners = present[votes.argmax(1)].cpu()
        return torch.where(segments >= 0, winners[segments.clamp_min(0)], segments)

    def pair(self) -> None:
        """Write the pairs, by the first process.

        Raises:
            InputError: no image has a neighbour that shares a class.
        """
        path = self.out / "pairs.jsonl"
        if self.rank or path.exists():
            return
        index, features, shares = self.whole()
        settings = self.settings
        pairs, count = positive_pairs(features, shares, settings.neighbours, settings.shared), 0
        with new_file(path) as partial:
            with partial.open("w", encoding="utf-8") as file:
                for one, two, key, share in self.progress(pairs, len(index) * settings.neighbours, "pair"):
                    row = {"query": self.names[index[one]], "positive": self.names[index[two]]}
                    file.write(json.dumps({**row, "class": key, "shared": round(share, 4)}) + "\n")
                    count += 1
            if not count:
                advice = f"fewer classes than {settings.classes}, more neighbours, or a smaller share"
                raise InputError(
                    f"No positive pair: among {len(index)} images none has one of its {settings.neighbours} nearest "
                    f"that shares a pseudo-class over more than {settings.shared:.0%} of both. Take "
                    + ("more images" if len(index) < 2 else f"{advice} (classes, neighbours, shared)")
                )


@gateway
def make_tasks(
    images: Dir, out: Dir, model: DenseModel, settings: TaskSettings, name: str = "", progress: Any = None
) -> Path:
    """Make the tasks of a folder of images, with a report; arguments as `Tasks`."""
    from .report import write_report

    tasks = Tasks(images, out, model, settings, name, progress)
    tasks.run()
    if tasks.rank == 0:
        write_report(tasks.out)
    return tasks.out
