"""DIP: dense in-context post-training on automatic segmentation tasks (arXiv 2506.18463, section 3.1).

A query's patches are labelled by their nearest neighbours among the patches of one positive image, which shares a
pseudo-class with it, and of distractors; the encoder learns by how right that is. No teacher, no classifier.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from dense_ctx.errors import ConfigError, InputError, refuse_idle
from dense_ctx.interfaces import Batch, Losses, Objective
from dense_ctx.model import DenseModel
from dense_ctx.numerics import holds
from dense_ctx.persistence.file_args import CHANNELS

from .distributed import draw_distractors, gather, host_gather, total, world
from .joined import open_tasks
from .projector import Projector
from .soft_labels import IGNORED, Loss, blocks_of, classes_in, compact, label_counts, prediction_loss, soft_predict
from .trainable import Train, choose

DISTRACTORS, TEMPERATURE, HIDDEN, OUT = 7, 0.07, 7, 6144  # the published


class DipObjective(Objective):
    """Post-train a backbone (or a decoder on it) on pairs of pseudo-labelled images.

    Args:
        loss: "nll" (eq. 3) or "official" (the published code's; see `prediction_loss`).
        distractors: images of the joint batch, beside the positive, that support a query.
        official_distractors: they may be the query's own positive again, as in the published code.
        temperature: of the softmax over support patches.
        classes: number of pseudo-classes; None: what the data says.
        hidden, out: of the projector; out 0: none, features are compared as they are.
        projector_lr: learning rate of the projector; None: the optimiser's.
        train: "blocks" (the backbone's last), "adapters" (of a backbone such as lora:NAME) or "decoder"; None: the
            adapters where the backbone has some, else its last blocks.
        blocks: how many; see `choose`.
        size: side of the square crops, pixels.
        scale: range of the random crop's share of the image's area; default 0.4 to 1.
        resize: in place of a random crop, the square of `size` in the middle of the image at this short side, as in the
            published code (256).
        positives: "pairs" (the data's), or "crops": two crops of the query in place of a neighbour (ablation).
        direct: a linear classifier of the pseudo-classes, on patches of queries and positives, in place of the
            support (ablation); `loss` is then "nll", and `projector_lr` the classifier's.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {
        "loss": frozenset(get_args(Loss)), "distractors": range(4097), "official_distractors": bool,
        "temperature": (0.0, 1e6), "classes": range(1, 1 << 20), "hidden": range(1, 65), "out": range(CHANNELS.stop),
        "projector_lr": (0.0, 100.0), "train": frozenset(get_args(Train)), "blocks": range(1, 257),
        "size": range(1, 4097), "scale": [(0.0, 1.0)], "resize": range(1, 8193),
        "positives": frozenset(("pairs", "crops")), "direct": bool,
    }  # fmt: skip

    def __init__(
        self,
        loss: Loss = "nll",
        distractors: int = DISTRACTORS,
        official_distractors: bool = False,
        temperature: float = TEMPERATURE,
        classes: int | None = None,
        hidden: int = HIDDEN,
        out: int = OUT,
        projector_lr: float | None = None,
        train: Train | None = None,
        blocks: int | None = None,
        size: int = 224,
        scale: Sequence[float] | None = None,
        resize: int | None = None,
        positives: str = "pairs",
        direct: bool = False,
    ) -> None:
        super().__init__()
        for value, choices, name in (
            (loss, ("nll", "official"), "loss"),
            (train or "blocks", ("blocks", "adapters", "decoder"), "train"),
            (positives, ("pairs", "crops"), "positives"),
        ):
            if value not in choices:
                raise ConfigError(f"{name}={value!r}: expected one of {', '.join(choices)}")
        least = min(distractors + 1, hidden, out + 1, size, 1 if classes is None else classes)
        if least < 1 or not temperature > 0:
            raise ConfigError(
                f"distractors={distractors}, temperature={temperature}, hidden={hidden}, out={out}, size={size}, "
                f"classes={classes}: expected at least 0, above 0, at least 1, 0, 1 and 1"
            )
        if resize is not None and scale is not None:
            raise ConfigError("scale would have no effect with resize, which cuts the middle: leave it out")
        scale = (0.4, 1.0) if scale is None else scale
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ConfigError(f"scale={list(scale)}: expected [low, high] within (0, 1]")
        if resize is not None and (resize < size or positives == "crops"):
            raise ConfigError(
                f"resize={resize}, size={size}, positives={positives}: the middle square of {size} pixels needs an "
                "image of at least that side, and is one and the same for two crops"
            )
        if direct and loss != "nll":
            raise ConfigError(
                f"direct=true classifies with cross-entropy; loss={loss!r} is of predictions from a support"
            )
        bare = not out and not direct
        cases = (
            (bare and projector_lr is not None, "projector_lr", "with out=0, which leaves the projector out"),
            ((bare or direct) and hidden != HIDDEN, "hidden", "without a projector (out=0, or direct=true)"),
            (direct and out != OUT, "out", "with direct=true, whose classifier has an output for each class"),
            (direct and distractors != DISTRACTORS, "distractors", "with direct=true, which needs no support"),
            (direct and temperature != TEMPERATURE, "temperature", "with direct=true"),
            (official_distractors and (direct or not distractors), "official_distractors", "without distractors"),
            (blocks is not None and train not in (None, "blocks"), "blocks", f"with train={train}"),
        )
        refuse_idle(cases)
        self.loss, self.distractors, self.official_distractors = loss, distractors, official_distractors
        self.temperature, self.classes, self.hidden, self.out = temperature, classes, hidden, out
        self.projector_lr, self.what, self.blocks = projector_lr, train, blocks
        self.size, self.scale, self.resize, self.positives = size, (scale[0], scale[1]), resize, positives
        self.direct = direct
        self.projector: nn.Module | None = None

    def dataset(self, data: Any) -> Dataset[Any]:
        """Pairs of the tasks folder that `data` names, of official lists, or of a list of these; see `TaskPairs.open`.

        Raises:
            ConfigError: more classes in the data than `classes` says.
        """
        tasks = open_tasks(data, self.size, self.scale, self.positives == "crops", self.resize)
        if self.classes is None:
            self.classes = tasks.classes
        elif tasks.classes > self.classes:
            raise ConfigError(f"classes={self.classes}, but {tasks.name} was made with {tasks.classes} pseudo-classes")
        return tasks

    def check(self, model: DenseModel) -> None:
        """Choose what to train where `train` is None; refuse `blocks` if that is something else."""
        if self.what is None:
            self.what = "adapters" if model.backbone.adapters() else "blocks"
        if self.blocks is not None and self.what != "blocks":
            raise ConfigError(
                f"blocks={self.blocks} would have no effect with train={self.what}, which is what a backbone with "
                "adapters trains: leave it out, or give train=blocks"
            )

    def setup(self, model: DenseModel, dataset: Dataset[Any], *, fresh: bool) -> list[dict[str, Any]]:
        """The parameters that `train` names, and the unpublished projector; vectors have no weight decay."""
        self.check(model)
        parameters = choose(model, cast(Train, self.what), self.blocks)
        groups = _by_decay(parameters)
        if self.projector is None and (self.out or self.direct):
            width = model.dim if self.what == "decoder" else model.backbone.dims[-1]
            self.projector = self._head(width).to(model.device)
        if self.projector is not None:
            rate = {} if self.projector_lr is None else {"lr": self.projector_lr}
            groups += [{**group, **rate} for group in _by_decay(self.projector.parameters())]
        return groups

    def _head(self, width: int) -> nn.Module:
        if not self.direct:
            return Projector(width, self.hidden, self.out)
        if self.classes is None:
            raise ConfigError("direct=true needs the number of pseudo-classes: give classes, or open the data first")
        return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, self.classes))

    def collate(self, samples: list[Any]) -> Batch:
        """Stack the samples. What the host needs of them stays with it, as lists: the seeds, and the classes."""
        batch = dict(super().collate(samples))
        labels = torch.stack([batch["query_labels"], batch["positive_labels"]])
        present = torch.bincount(labels.clamp_min(IGNORED).flatten() - IGNORED)[-IGNORED:].nonzero()[:, 0]
        return {**batch, "seed": batch["seed"].tolist(), "present": present.tolist()}

    # ------------------------------------------------------------------ one batch

    def prepare(self, model: DenseModel, batch: Batch) -> Batch:
        """Draw the distractors and list the classes of the joint batch: "support" as of `blocks_of`, "present"."""
        if self.direct or "support" in batch:
            return batch
        rank, processes = world()
        count, device = len(batch["query"]), model.device
        support = blocks_of(rank, count, self._distractors(batch, count * processes, device))
        return {**batch, "support": support, "present": self._present(batch, device)}

    def forward(self, model: DenseModel, batch: Batch) -> Losses:
        """Loss of this process' queries; logs `accuracy` over labelled pixels, and `unsupported`, the share of queries
        whose supports hold no label at all (they count nothing).

        Args:
            batch: "query", "positive" [B, 3, H, W]; "query_labels", "positive_labels" int64 [B, H, W], -1 ignored;
                "seed" [B], integers from which the distractors are drawn, alike in every process; or "distractors",
                int64 [n, joint batch], which fixes them (n may be 0); "present", the ids that occur in the labels,
                increasing; without it they are looked for on the device, for which the host waits.
        """
        batch, device = self.prepare(model, batch), model.device
        images = torch.cat([batch["query"], batch["positive"]]).to(device)
        both = [batch["query_labels"], batch["positive_labels"]]
        if any(item.shape != batch["query"][:, 0].shape for item in both):
            shapes = " and ".join(str(list(item.shape)) for item in both)
            raise InputError(f"Labels {shapes} do not fit the images {list(batch['query'].shape)}")
        labels = torch.cat(both).to(device)
        rows, grid, full = self._rows(model, images)
        if not grid[0] * grid[1]:
            raise InputError(f"Images {list(images.shape[-2:])} give no patch")
        labels = functional.pad(
            labels, (0, full[1] - labels.shape[-1], 0, full[0] - labels.shape[-2]), value=IGNORED
        )  # the padding to the stride is ignored
        if self.projector is not None:
            rows = self.projector(rows)
        if self.classes is not None and not holds((labels < self.classes).all()):
            raise InputError(
                f"label ids run up to {int(labels.max())}; expected 0 to {self.classes - 1}, or {IGNORED} for ignored "
                "pixels"
            )
        with torch.autocast(device.type, enabled=False):
            if self.direct:
                return self._classified(rows.float(), labels, grid)
            return self._losses(rows.float(), labels, grid, batch)

    def _losses(self, rows: Tensor, labels: Tensor, grid: tuple[int, int], batch: Batch) -> Losses:
        queries, mine = rows.chunk(2)
        own, positive = labels.chunk(2)
        keys = gather(functional.normalize(mine, dim=-1))
        own_labels, positive_labels = compact(own, gather(positive), present=batch["present"])
        count = max(1, len(batch["present"]))
        values, counts = label_counts(positive_labels, grid, count), label_counts(own_labels, grid, count)
        predicted, supported = soft_predict(queries, keys, values, batch["support"], self.temperature)
        counts = counts * supported[:, None, None]
        classes = max(self.classes or 1, count)
        loss, pixels = prediction_loss(predicted, counts, self.loss, classes)
        # DDP averages gradients over processes: this scales them to the joint batch, whatever each process ignores
        loss = loss / (total(pixels) / world()[1]).clamp_min(1)
        right = counts.gather(-1, predicted.argmax(-1, keepdim=True)).sum() / pixels.clamp_min(1)
        return Losses(loss, {"accuracy": right, "unsupported": 1 - supported.float().mean()})

    def _classified(self, scores: Tensor, labels: Tensor, grid: tuple[int, int]) -> Losses:
        """Cross-entropy of patches' class scores [2B, N, classes], pixels weighing alike."""
        counts = label_counts(labels, grid, scores.shape[-1])
        pixels = counts.sum()
        loss = -(counts * scores.log_softmax(-1)).sum() / (total(pixels) / world()[1]).clamp_min(1)
        right = counts.gather(-1, scores.argmax(-1, keepdim=True)).sum() / pixels.clamp_min(1)
        return Losses(loss, {"accuracy": right})

    def _rows(self, model: DenseModel, images: Tensor) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
        """Patch features [B, h * w, C], the grid (h, w), and the padded image's (H, W)."""
        features, padded = model.encode(images)
        full = (padded.shape[-2], padded.shape[-1])
        maps = features.maps[-1]
        if self.what == "decoder":
            maps = model.decoder(features, padded, (maps.shape[-2], maps.shape[-1]))
        return rearrange(maps, "b c h w -> b (h w) c"), (maps.shape[-2], maps.shape[-1]), full

    def _present(self, batch: Batch, device: torch.device) -> Tensor:
        """The ids that occur in the joint batch, increasing."""
        ids = batch.get("present")
        if ids is None or (world()[1] > 1 and self.classes is None):
            return classes_in(batch["query_labels"].to(device), gather(batch["positive_labels"].to(device)))
        own = torch.as_tensor(ids, dtype=torch.int64, device="cpu")
        if world()[1] > 1:
            occurs = torch.zeros(cast(int, self.classes), dtype=torch.int64)
            occurs[own[own < len(occurs)]] = 1
            own = host_gather(occurs[None], device).any(0).nonzero()[:, 0]
        return own.to(device, non_blocking=True)

    def _distractors(self, batch: Batch, joint: int, device: torch.device) -> Tensor:
        ids = batch.get("distractors")
        if ids is not None:
            inside = ids.numel() == 0 or (int(ids.min()) >= 0 and int(ids.max()) < joint)
            if ids.ndim != 2 or ids.shape[1] != joint or ids.is_floating_point() or not inside:
                raise InputError(f"distractors are int64 [n, {joint}] of ids 0 to {joint - 1}; got {list(ids.shape)}")
            return cast(Tensor, ids.long().to(device))
        numbers = torch.as_tensor(batch.get("seed", [0] * (joint // world()[1])), dtype=torch.int64)
        seeds, seed = host_gather(numbers.cpu(), device), 0
        for number in seeds.tolist():  # the order counts, and every process sees the same
            seed = (seed * 1_000_003 + number + 1) % (1 << 62)
        generator = torch.Generator().manual_seed(seed)
        choice = draw_distractors(joint, self.distractors, generator, self.official_distractors)
        return choice.to(device, non_blocking=True)


def _by_decay(parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """Groups of matrices, and of biases and scales, without weight decay, as in the published code."""
    every = list(parameters)
    matrices, vectors = [p for p in every if p.ndim > 1], [p for p in every if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
