"""Dense prediction by retrieval from a large memory bank of support patches (Balazevic et al. 2023; DIP, section 3.1).

No weight is trained: a patch takes the softmax-weighted mean of the label histograms of its nearest support patches.
It measures the features alone.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import CheckpointError, InputError, NotFittedError, refuse_idle
from dense_ctx.interfaces import DenseFeatures, FitContext, Probe, Size, Task, resample
from dense_ctx.persistence.file_args import CHANNELS, SEEDS
from dense_ctx.persistence.tensors import require_state

from .resident import Resident
from .retrieval_bank import Bank
from .retrieval_blocks import Metric
from .retrieval_cells import histograms, means
from .retrieval_search import ApproximateIndex, Engine, nearest

Mode = Literal["sound", "official", "dip"]
Sampling = Literal["balanced", "uniform"]
_TYPES = {"float32": torch.float32, "float16": torch.float16}
_CHUNK = 1024  # queries whose neighbours' values are gathered at a time
_MEASURED = 256  # queries on which an approximate search's recall is measured


class RetrievalProbe(Probe):
    """Cosine nearest neighbours of encoder patches (or of pixels on the features' grid) in a bounded memory bank.

    Args:
        task: see `dense_ctx.Probe`.
        k, temperature: neighbours, and the softmax over their cosines.
        memory: most patches stored; each support image has an equal share of them.
        mode: "sound": unannotated pixels count nothing, patches without any annotation stay out of memory;
            "official": they are class 0 in memory, as in open-hummingbird's evaluator (segmentation only); "dip": so
            too, and features keep their length: neighbours are those at the least Euclidean distance, weighed by
            cosine, as in DIP's own.
        sampling: which patches of an image are kept: "balanced" prefers classes that cover few of its patches (the
            evaluator's way; the default for segmentation), "uniform" any (the only one for regression).
        reads: "patches" (encoder) or "pixels" (what `DenseFeatures.pixels` holds, on its grid); default: an
            evaluation's, else "patches".
        classes: segmentation: number of classes, where known; default: grows with what is seen.
        dtype: of the bank, "float32" or "float16".
        engine: "torch" or "faiss", both exact; or approximate by faiss: "ivf" (inverted lists, float16) or "ivfpq"
            (codes of C / 4 bytes), whose recall is measured on the first queries, kept as `recall_` and warned of.
        device: where the bank is: "cpu", "cuda" ...
        device_memory: as of `KnnProbe`; of a bank on the CPU or in files.
        folder: keep it in files there, mapped into memory; segmentation then needs `classes`.
        seed: of the sampling.
    """

    pixel_targets: ClassVar[bool] = True  # histograms are computed from annotations at their own resolution
    file_args: ClassVar[Mapping[str, Any] | None] = {  # neither a folder to write to nor a device of this machine
        "k": range(1, 4097),
        "temperature": (0.0, 1e6),
        "memory": range(1, 1 << 26),
        "mode": frozenset(get_args(Mode)),
        "sampling": frozenset(get_args(Sampling)),
        "reads": frozenset(("patches", "pixels")),
        "classes": CHANNELS,
        "dtype": frozenset(_TYPES),
        "engine": frozenset(get_args(Engine)),
        "seed": SEEDS,
    }

    def __init__(
        self,
        task: Task = "segmentation",
        k: int = 30,
        temperature: float = 0.02,
        memory: int = 10_240_000,
        mode: Mode = "sound",
        sampling: Sampling | None = None,
        reads: Literal["patches", "pixels"] | None = None,
        classes: int | None = None,
        dtype: Literal["float32", "float16"] = "float32",
        engine: Engine = "torch",
        device: str = "cpu",
        folder: str | os.PathLike[str] | None = None,
        seed: int | None = None,
        device_memory: str | int | None = None,
    ) -> None:
        super().__init__(task, seed)
        if min(k, memory, 1 if classes is None else classes) < 1 or not temperature > 0:
            raise InputError(f"k={k}, memory={memory}, classes={classes}, temperature={temperature}: all above 0")
        for value, allowed, name in (
            (mode, ("sound", "official", "dip"), "mode"),
            (sampling, (None, "balanced", "uniform"), "sampling"),
            (reads, (None, "patches", "pixels"), "reads"),
            (dtype, tuple(_TYPES), "dtype"),
            (engine, ("torch", "faiss", "ivf", "ivfpq"), "engine"),
        ):
            if value not in allowed:
                raise InputError(f"{name}={value!r}: expected one of {', '.join(filter(None, allowed))}")
        values = task == "regression"
        refuse_idle(
            (
                (values and sampling == "balanced", "sampling=balanced", "with task=regression, which has no classes"),
                (values and mode == "official", "mode=official", "with task=regression, which has no classes"),
                (values and classes is not None, "classes", "with task=regression"),
                (folder is not None and device != "cpu", "device", "with folder, which keeps the bank in files"),
                (device_memory is not None and engine != "torch", "device_memory", f"with engine={engine}"),
            )
        )
        if folder is not None and task == "segmentation" and classes is None:
            raise InputError("folder=... keeps histograms of one width in a file: give classes, the number of them")
        self.k, self.temperature, self.mode = k, temperature, mode
        self.sampling = sampling or ("uniform" if values else "balanced")
        self.classes, self.engine, self.reads, self._own_reads = classes, engine, reads or "patches", reads
        self.bank_ = Bank(memory, _TYPES[dtype], unit=mode != "dip", device=device, folder=folder)
        self._resident = Resident(device_memory)
        self.recall_: float | None = None
        self._index: tuple[Tensor, ApproximateIndex] | None = None  # and the keys it was made of
        self.seen_ = 0  # images, those without an annotation among them
        self.width_ = classes or 0

    def configure(self, context: FitContext) -> None:
        """Take the seed, and the features to read unless the probe's own `reads` is set."""
        super().configure(context)
        if self._own_reads is None:
            self.reads = "patches" if context.reads == "patches" else "pixels"

    # ------------------------------------------------------------------ memory

    def partial_fit(self, features: DenseFeatures, targets: Tensor, draws: Tensor | None = None) -> RetrievalProbe:
        """Add the patches of B images; targets [B, H, W] or [B, K, H, W] at any resolution.

        Args:
            draws: the uniform numbers in [0, 1) that decide which patches a bounded memory keeps, float [B, h * w] in
                the order of the patches, row by row; None: from the probe's seed.

        Raises:
            InputError: no annotated pixel, a class beyond `classes`, targets of another kind than the task's, or draws
                of another shape or range.
        """
        self._check(features, targets)
        added = False
        maps, extent = self._maps(features)
        cells = maps.shape[-2] * maps.shape[-1]
        if draws is not None and (
            list(draws.shape) != [len(targets), cells] or not bool(((draws >= 0) & (draws < 1)).all())
        ):
            raise InputError(f"draws are numbers in [0, 1), [{len(targets)}, {cells}]; got {list(draws.shape)}")
        for index in range(len(targets)):
            patches = rearrange(maps[index], "d h w -> (h w) d")
            values, share = self._cells(targets[index], (maps.shape[-2], maps.shape[-1]), extent)
            keep = share > 0
            if self.mode != "sound" and self.task == "segmentation":
                keep = torch.ones_like(keep)
            order = self._order(values, keep, self._uniform(len(values)) if draws is None else draws[index].cpu())
            self.seen_ += 1
            if len(order):
                self.bank_.add(patches[order.to(patches.device)], values[order])
                added = True
        if not added:
            raise InputError("No labelled pixel: every target is ignored (-1) or NaN")
        return self

    def _maps(self, features: DenseFeatures) -> tuple[Tensor, tuple[float, float]]:
        """What is read, [B, C, h, w], and the share of its grid that the image covers."""
        return (features.patches, features.extent) if self.reads == "patches" else (features.pixels, (1.0, 1.0))

    def _check(self, features: DenseFeatures, targets: Tensor) -> None:
        batch = len(features.patches)
        if self.task == "segmentation":
            if targets.is_floating_point() or targets.ndim != 3 or len(targets) != batch:
                raise InputError(
                    f"Segmentation targets are integers [B, H, W] with B = {batch}; got {targets.dtype} "
                    f"{list(targets.shape)}"
                )
            highest = int(targets.max()) if targets.numel() else -1
            if self.classes is not None and highest >= self.classes:
                raise InputError(f"A target holds class {highest}; the probe was made for {self.classes} classes")
            self.width_ = max(self.width_, highest + 1, 1)
        elif not targets.is_floating_point() or targets.ndim != 4 or len(targets) != batch:
            raise InputError(
                f"Regression targets are floats [B, K, H, W] with B = {batch}; got {targets.dtype} "
                f"{list(targets.shape)}"
            )
        else:
            self.width_ = targets.shape[1]

    def _cells(self, target: Tensor, grid: Size, extent: tuple[float, float]) -> tuple[Tensor, Tensor]:
        """Values [h * w, K] of an image's patches, float32, and how many annotated pixels each holds."""
        target = target.cpu()
        if self.task != "segmentation":
            return means(target, grid, extent)
        return histograms(target if self.mode == "sound" else target.clamp_min(0), grid, extent, self.width_)

    def _order(self, values: Tensor, keep: Tensor, score: Tensor) -> Tensor:
        """The patches to keep, in the order in which they would be chosen by uniform numbers `score`."""
        annotated = keep.nonzero()[:, 0]
        if self.sampling == "balanced":
            present = (values > 0).float()
            # in how many patches each class is; a patch counts those of all its classes
            score = (present @ present[annotated].sum(0)) * score
        elif self.bank_.size >= len(annotated) * (len(self.bank_) + 1):
            return annotated
        return annotated[score[annotated].argsort(stable=True)]

    def _uniform(self, count: int) -> Tensor:
        """Numbers in [0, 1) for an image's patches; by its number, so that a probe saved half-way draws the same."""
        return torch.rand(count, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + self.seen_))

    # ------------------------------------------------------------------ prediction

    def predict(self, features: DenseFeatures, size: Size | None = None) -> Tensor:
        """[B, K, *size]: probabilities or values, bilinearly upsampled from the patches."""
        patches, extent = self._maps(features)
        values, _, _ = self.retrieve(rearrange(patches, "b d h w -> (b h w) d"))
        maps = rearrange(values, "(b h w) k -> b k h w", b=len(patches), h=patches.shape[-2])
        height, width = size or (features.pixels.shape[-2], features.pixels.shape[-1])
        full = (max(height, round(height / extent[0])), max(width, round(width / extent[1])))
        return resample(maps, full)[:, :, :height, :width]

    def retrieve(self, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For query features [Q, C]: values [Q, K], their neighbours' indices [Q, k], nearest first, and cosines.

        An index is -1 where an approximate search found fewer.
        """
        keys, values = self.bank_.whole()
        if queries.shape[1] != keys.shape[1]:
            raise InputError(f"features have {queries.shape[1]} dimensions; those in memory {keys.shape[1]}")
        if self.engine == "torch":
            keys, values = self._resident.of(queries.device, keys, values)
        queries = queries.float()
        unit = functional.normalize(queries, dim=1)
        vectors = queries if self.mode == "dip" else unit
        metric: Metric = "l2" if self.mode == "dip" else "product"
        if self.engine in ("ivf", "ivfpq"):
            neighbours, cosines = self._approximate(keys, vectors, metric), None
        else:
            cosines, neighbours = nearest(vectors, keys, self.k, self.engine, metric=metric)
        predictions, scores = [], []
        for part, block in zip(range(0, len(unit), _CHUNK), neighbours.split(_CHUNK), strict=True):
            inside = block.clamp_min(0)
            if cosines is None or self.mode == "dip":
                near = functional.normalize(keys[inside.to(keys.device)].to(unit), dim=-1)
                score = torch.einsum("qc,qkc->qk", unit[part : part + _CHUNK], near)
            else:
                score = cosines[part : part + _CHUNK]
            score = score.masked_fill(block < 0, -float("inf"))
            weights = (score / self.temperature).softmax(1)
            # [Q, k, K] at once would be gigabytes for many classes
            predictions.append(torch.einsum("qk,qkm->qm", weights, values[inside.to(values.device)].to(weights)))
            scores.append(score)
        result = torch.cat(predictions)
        return functional.pad(result, (0, self.width_ - result.shape[1])), neighbours, torch.cat(scores)

    def _approximate(self, keys: Tensor, queries: Tensor, metric: Metric) -> Tensor:
        k = min(self.k, len(keys))
        if self._index is None or self._index[0] is not keys:
            approximate = ApproximateIndex(keys, self.engine, metric, self.seed)
            self._index, measured = (keys, approximate), queries[:: max(1, len(queries) // _MEASURED)][:_MEASURED]
            self.recall_ = approximate.recall(measured, keys, k)
            warnings.warn(
                f"engine={self.engine} is approximate: of the true {k} nearest it finds {self.recall_:.1%} "
                f"({len(measured)} queries, {len(keys)} rows)",
                stacklevel=2,
            )
        return self._index[1].search(queries, k)

    def state_dict(self) -> dict[str, Tensor]:
        """The memory bank."""
        if not len(self.bank_):
            raise NotFittedError("Nothing to save: call fit first")
        counts = self.bank_.counts()
        keys, values = (part.cpu() for part in self.bank_.whole())
        numbers = torch.tensor([self.seen_, self.width_])
        return {"keys": keys, "values": values, "counts": counts, "numbers": numbers}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a memory bank."""
        dtype = self.bank_.dtype
        bank = {"keys": (dtype, ("M", "C")), "values": (dtype, ("M", "K")), "counts": (torch.int64, ("I",))}
        complaint = "The state is not that of a retrieval probe"
        require_state(state, {**bank, "numbers": (torch.int64, (2,))}, complaint)
        known, width = state["values"].shape[1], int(state["numbers"][1])
        if not known <= width <= max(known, CHANNELS.stop):
            raise CheckpointError(f"{complaint}: values of {known} classes where numbers says {width}")
        self.bank_.restore(state["keys"], state["values"], state["counts"])
        self.seen_, self.width_ = state["numbers"].tolist()
