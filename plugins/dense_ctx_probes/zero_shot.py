"""Zero-shot segmentation: features in a text space, classified by class names (LILA, appendix C, eq. 7-11)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dense_ctx.errors import ConfigError, InputError, refuse_idle
from dense_ctx.interfaces import DenseFeatures, FitContext, Task
from dense_ctx.persistence.file_args import CHANNELS

from .gradient import UPDATES, GradientProbe
from .heads import Reads
from .text import RANDOM, TextEmbeddings

_OF_VALUES = ("loss", "bins", "low", "high")  # arguments for regression


class ZeroShotHead(nn.Module):
    """Cosine to fixed text vectors from both branches, mixed by learned weights under a learned scale (eq. 7, 8).

    Args:
        dims: channels of (pixels, patches).
        text: unit vectors [classes, E], fixed.
        reads: which branches.
    """

    text: Tensor

    def __init__(self, dims: tuple[int, int], text: Tensor, reads: Reads) -> None:
        super().__init__()
        width = text.shape[1]
        self.decoder = _projection(dims[0], width) if reads != "patches" else None
        self.encoder = _projection(dims[1], width) if reads != "pixels" else None
        self.mix = nn.Parameter(torch.full((2,), 0.5 if reads == "both" else 1.0))  # alpha of encoder, decoder
        self.scale = nn.Parameter(torch.tensor(2.6593))  # gamma; CLIP starts from ln(1 / 0.07)
        self.register_buffer("text", text)

    def forward(self, features: DenseFeatures) -> Tensor:
        """Logits [B, classes, H, W] on the pixel grid."""
        total: Tensor | float = 0.0
        if self.encoder is not None:
            total = total + self.mix[0] * features.on_pixels(self._cosines(self.encoder(features.patches.float())))
        if self.decoder is not None:
            total = total + self.mix[1] * self._cosines(self.decoder(features.pixels.float()))
        out: Tensor = self.scale.clamp(max=4.6052).exp() * total  # at most 100, as CLIP limits it
        return out

    def _cosines(self, projected: Tensor) -> Tensor:
        return torch.einsum("behw,ce->bchw", functional.normalize(projected, dim=1), self.text)


def _projection(dim: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(dim), nn.Conv2d(dim, width, 1))


class ZeroShotProbe(GradientProbe):
    """Trained on pixels of seen classes, tested on all.

    Loss (eq. 9-11): cross-entropy over all classes on pixels of seen ones; on pixels of unseen ones, whose label is not
    used, the squared probability of the seen classes together; 0.1 of the first plus the second.

    Args:
        task: "segmentation" only.
        embeddings: file of text embeddings (`dense_ctx_probes.text`); or "random": fixed random directions in place of
            text, a cosine classifier from which nothing can transfer to unseen classes. None is refused.
        class_names: of a file: the classes in the order of their ids; default the file's own order.
        unseen: class ids whose labels are not learned from; an evaluation's own stand in their place.
        width: of the random directions; default 64.
        classes: of random directions, see `GradientProbe`; a file says how many there are.
        reads, updates to seed: see `GradientProbe`.

    Raises:
        ConfigError: no embeddings, or an argument without effect beside the others.
        FileError, InputError: as `TextEmbeddings.load`; an argument out of its range.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {
        **{key: rule for key, rule in (GradientProbe.file_args or {}).items() if key not in _OF_VALUES},
        "embeddings": frozenset((RANDOM,)),  # a file is its user's to name
        "class_names": [re.compile(r"[^\x00-\x1f]{1,200}")],
        "unseen": [range(CHANNELS.stop)],
        "width": CHANNELS,
    }

    def __init__(
        self,
        task: Task = "segmentation",
        embeddings: str | os.PathLike[str] | None = None,
        class_names: Sequence[str] | None = None,
        unseen: Sequence[int] = (),
        width: int | None = None,
        reads: Reads | None = None,
        classes: int | None = None,
        updates: int = UPDATES,
        replay: int | None = None,
        lr: float = 1e-3,
        weight_decay: float = 1e-3,
        total_steps: int | None = None,
        seed: int | None = None,
    ) -> None:
        if task != "segmentation":
            raise InputError("zero-shot classifies pixels by class names: task='segmentation' only")
        if embeddings is None:
            raise ConfigError(
                "zero-shot needs text embeddings of the classes: give embeddings=FILE (in a protocol "
                "probe.args.embeddings=FILE), made once with `dense-ctx text DATASET --data ROOT --out FILE`; "
                "embeddings=random measures random directions instead, from which no unseen class can be found"
            )
        if width is not None and width < 1:
            raise InputError(f"width={width}: expected at least 1")
        if isinstance(class_names, str):
            raise InputError(f"class_names={class_names!r} is one text; expected a list of names")
        random = embeddings == RANDOM
        refuse_idle(
            (
                (not random and width is not None, "width", f"beside embeddings={embeddings}, which has its own"),
                (not random and classes is not None, "classes", f"beside embeddings={embeddings}, which has its own"),
                (random and class_names is not None, "class_names", "with embeddings=random, which has no names"),
            )
        )
        self._text = cast(Tensor | None, None)
        self._file = None if random else TextEmbeddings.load(embeddings)
        super().__init__(task, reads, classes, updates, replay, lr, weight_decay, total_steps, seed=seed)
        self.width = width or 64
        self._own = ((class_names is not None, "class_names"), (bool(unseen), "unseen"))
        if self._file is not None:
            self._name(class_names if class_names is not None else self._file.classes)
        if self._text is not None and any(not 0 <= index < len(self._text) for index in unseen):
            raise InputError(f"unseen={list(unseen)}: class ids are 0 to {len(self._text) - 1}")
        self.unseen = tuple(unseen)

    def configure(self, context: FitContext) -> None:
        """Take the classes' names, which pick their embeddings, and which of them are unseen.

        Raises:
            InputError: the file lacks a class. ConfigError: names or unseen classes among its own arguments too.
        """
        beside = "in an evaluation, which has the data set's classes and scoring.unseen"
        refuse_idle([(given, name, beside) for given, name in self._own])
        names = replace(context, unseen=(), classes=() if self._file is not None else context.classes)
        super().configure(names)
        if context.classes:
            if self._file is not None:
                self._name(context.classes)
            self.unseen = tuple(i for i, name in enumerate(context.classes) if name in context.unseen)

    def _name(self, classes: Sequence[str]) -> None:
        if self._file is not None:
            self._text = self._file.pick(classes)
            self.classes = len(self._text)

    def build(self, dims: tuple[int, int], outputs: int) -> nn.Module:
        """A `ZeroShotHead`."""
        text = self._text
        if text is None:
            draws = torch.randn(outputs, self.width, generator=self._generator(), device="cpu")
            text = functional.normalize(draws, dim=1)
        return ZeroShotHead(dims, text[:outputs].clone(), self.reads)  # one that autograd takes, wherever it was read

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def objective(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Eq. 9-11."""
        if not self.unseen:
            return super().objective(scores, targets)
        size = (targets.shape[-2], targets.shape[-1])
        if tuple(scores.shape[-2:]) != size:
            scores = functional.interpolate(scores, size=size, mode="bilinear", align_corners=False)
        hidden = torch.isin(targets, torch.tensor(self.unseen, device=targets.device))
        seen_targets = targets.masked_fill(hidden, -1)
        if bool((seen_targets >= 0).any()):
            fit = functional.cross_entropy(scores, seen_targets, ignore_index=-1)
        else:
            fit = 0.0 * scores.sum()  # a batch of unseen classes only
        if not bool(hidden.any()):
            return fit
        seen = torch.ones(scores.shape[1], device=scores.device)
        seen[list(self.unseen)] = 0
        mass = torch.einsum("bchw,c->bhw", scores.softmax(1), seen)
        return 0.1 * fit + mass[hidden].square().mean()
