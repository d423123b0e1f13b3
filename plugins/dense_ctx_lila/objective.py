"""LILA: linear in-context learning of pixel features from video (arXiv 2604.26488, section 3).

Features of a context frame explain its cue maps through a ridge regression; the same coefficients, applied to the
features of a nearby frame, must explain that frame's cues. Cues that do not hold from frame to frame cannot be
predicted so, and their noise leaves no trace.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import Dataset

from dense_ctx.config import typed
from dense_ctx.errors import ConfigError, InputError, refuse_idle
from dense_ctx.interfaces import Batch, Losses, Objective
from dense_ctx.model import DenseModel
from dense_ctx.numerics import Bias
from dense_ctx.persistence.file_args import CHANNELS, LAYERS

from . import decoder_init
from .anchor import anchor_loss
from .cue_targets import FEATURES, CueMaps
from .feature_cue import FeatureCue
from .matching import Edges, Fit, Matching
from .open_clips import open_clips
from .products import Products
from .refinement import refined
from .regression import Regression
from .sampling import FramePairs, Sampling
from .slow_copy import SlowCopy
from .targets import Targets

S = TypeVar("S", Sampling, Regression, FeatureCue, Matching, SlowCopy)


class LilaObjective(Objective):
    """Train a decoder, and the backbone's adapters where it has some, on pairs of video frames.

    Args:
        cues: "features" (the backbone's own maps, refined) and registered cues, "NAME" or "NAME(key=value, ...)".
        mode: "in-context" (the method) or "erm" (a linear head predicts each frame's cues: the paper's ablation A).
        context: through which features the coefficients come: "shared" (gradients flow through the solve),
            "detached" (they do not) or "ema" (of a slow copy of the decoder).
        ema: how that copy follows, see `SlowCopy`; default momentum 0.999, moved every step.
        features: settings of the features cue, see `FeatureCue`.
        regression: see `Regression`.
        loss: its form, see `Matching`.
        sigma, gamma: of the edge loss; gamma 0 leaves it out. sigma: default 0.1.
        balance: "cues" (each cue counts the same) or "channels" (each channel does, as in eq. 3).
        start: this many pairs of the data give a new decoder its first weights, if its `initialise` supports that
            (0: those it was made with). A model that was opened has weights of its own, and is refused.
        centre: after training, take from the features of a decoder that was new when training began their mean over
            so many crops of the data (`Decoder.shift`). A free bias leaves the mean to chance, and cosines between
            features that share a large one say little; linear probes do not notice. A decoder that was trained before
            keeps the mean that it had on these crops: its own zero is that of the data it was trained on. 0: leave it.
        refine: share by which maps of registered cues move towards what both frames' regressions predict alike, from 0
            to 1, see `refinement.refined`; 0: they stay.
        anchor: weight of a loss that holds cosines between pixels near those before training, see `anchor.anchor_loss`;
            0: none.
        sampling: of pairs and their crops, see `Sampling`.
        cue_cache: folder that `dense-ctx cues` wrote at `sampling.cue_side`: maps are read, no cue network is built.

    Raises:
        ConfigError, InputError: a setting that is unknown, of the wrong type, out of range or without effect beside the
            others.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {  # cues without arguments, which name files
        "cues": [re.compile(r"[\w:.-]{1,100}")], "mode": frozenset(("in-context", "erm")),
        "context": frozenset(("shared", "detached", "ema")), "ema": (0.0, 1.0),
        "sigma": (0.0, 1e6), "gamma": (0.0, 1e6),
        "balance": frozenset(("cues", "channels")), "start": range(100_001), "centre": range(100_001),
        "refine": (0.0, 1.0), "anchor": (0.0, 1e6),
        "features": {"layers": LAYERS, "norm": bool, "project": range(CHANNELS.stop), "pamr": bool,
                     "pyramid": [range(1, 65)], "iterations": [range(1001)], "dilations": [range(1, 65)]},
        "regression": {"penalty": (0.0, 1e9), "relative": bool, "bias": frozenset(get_args(Bias)), "mean": bool,
                       "stride": range(1, 4097), "products": frozenset(get_args(Products))},
        "loss": {"fit": frozenset(get_args(Fit)), "beta": (0.0, 1e6), "weight": (0.0, 1e6),
                 "edges": frozenset(get_args(Edges))},
        "sampling": {"gap": [range(1, 100_001)], "items": frozenset(("frames", "clips")), "crop": [(0.0, 1.0)],
                     "size": range(8, 4097), "map_size": range(4097), "frame_side": range(8, 8193),
                     "cue_side": range(8, 8193), "same_frame": bool, "synthetic": (0.0, 1.0),
                     "flow_check": bool, "memory": range(1 << 40)},
    }  # fmt: skip

    def __init__(
        self,
        cues: Sequence[str] = (FEATURES, "flow:dis"),
        mode: Literal["in-context", "erm"] = "in-context",
        context: Literal["shared", "detached", "ema"] = "shared",
        ema: SlowCopy | Mapping[str, Any] | None = None,
        features: FeatureCue | Mapping[str, Any] = FeatureCue(),  # noqa: B008 (frozen)
        regression: Regression | Mapping[str, Any] = Regression(),  # noqa: B008
        loss: Matching | Mapping[str, Any] = Matching(),  # noqa: B008
        sigma: float | None = None,
        gamma: float = 1.0,
        balance: Literal["cues", "channels"] = "cues",
        start: int = 0,
        centre: int = 64,
        refine: float = 0.0,
        anchor: float = 0.0,
        sampling: Sampling | Mapping[str, Any] = Sampling(),  # noqa: B008
        cue_cache: str | None = None,
    ) -> None:
        super().__init__()
        for value, choices, name in (
            (mode, ("in-context", "erm"), "mode"),
            (context, ("shared", "detached", "ema"), "context"),
            (balance, ("cues", "channels"), "balance"),
        ):
            if value not in choices:
                raise ConfigError(f"{name}={value!r}: expected one of {', '.join(choices)}")
        if min(start, centre) < 0:
            raise ConfigError(f"start={start}, centre={centre}: a number of pairs, of crops; or 0")
        if not (sigma is None or sigma > 0) or not gamma >= 0:
            raise ConfigError(f"sigma={sigma}, gamma={gamma}: expected above 0, and at least 0")
        if not 0 <= refine <= 1 or not anchor >= 0:
            raise ConfigError(f"refine={refine}, anchor={anchor}: a share from 0 to 1, and a weight from 0 up")
        self.refine, self.anchor = refine, anchor
        self.mode, self.context = mode, context
        self.ema = SlowCopy() if ema is None else _settings(SlowCopy, ema, "ema")
        self.gamma, self.sigma, self.balance = gamma, 0.1 if sigma is None else sigma, balance
        self.start, self.centre = start, centre
        self.sampling = _settings(Sampling, sampling, "sampling")
        self.loss = _settings(Matching, loss, "loss")
        self.regression = _settings(Regression, regression, "regression")
        feature_cue = _settings(FeatureCue, features, "features")
        self.cues = CueMaps(cues, feature_cue, self.sampling, cue_cache)
        own = FEATURES in self.cues.names
        cases = (
            (ema is not None and context != "ema", "ema", "without context=ema"),
            (mode == "erm" and context != "shared", "context", "with mode=erm, which solves nothing in context"),
            (mode == "erm" and self.regression != Regression(), "regression", "with mode=erm"),
            (not gamma and self.loss.edges != "l1", "loss.edges", "with gamma=0, which leaves the edge loss out"),
            (not gamma and sigma is not None, "sigma", "with gamma=0, which leaves the edge loss out"),
            (refine > 0 and mode == "erm", "refine", "with mode=erm, which solves nothing in context"),
            (refine > 0 and self.cues.names == (FEATURES,), "refine", f"with the cue {FEATURES} alone"),
            (not own and feature_cue != FeatureCue(), "features", f"without the cue {FEATURES}"),
        )
        refuse_idle(cases)
        if mode == "in-context" and self.regression.stride // 2 >= self.sampling.map_size:
            raise ConfigError(
                f"regression.stride={self.regression.stride} leaves no pixel of maps of {self.sampling.map_size} x "
                f"{self.sampling.map_size}: give a smaller one, or a larger sampling.map_size"
            )
        self.slow: nn.Module | None = None
        self.original: nn.Module | None = None
        self.initial: nn.Module | None = None
        self.head: nn.Conv2d | None = None
        self._to_centre: Dataset[Any] | None = None
        self._keeps_mean = False

    def check(self, model: DenseModel) -> None:
        """Refuse `start` on a trained model."""
        if self.start and not model.decoder.fresh:
            raise ConfigError(
                f"start={self.start} initialises the decoder from data, and this model is trained already: its "
                "published weights would be overwritten. Leave out start (start=0), or make the decoder new"
            )

    def dataset(self, data: Any) -> FramePairs:
        """Frame pairs of the clips that `data` names; see `open_clips`."""
        clips, cues = open_clips(data), self.cues.build()
        return FramePairs(clips, self.sampling, cues.light, bool(cues.heavy), cues.cache)

    def collate(self, samples: list[Any]) -> Batch:
        """Stack everything but the whole frames, which differ in size from clip to clip."""
        batch: dict[str, Any] = {}
        for key in samples[0]:
            values = [sample[key] for sample in samples]
            batch[key] = values if key in ("name", "frames") else torch.stack(values)
        return batch

    def setup(self, model: DenseModel, dataset: Dataset[Any], *, fresh: bool) -> list[dict[str, Any]]:
        """The default's groups; with "erm" the head is among them. A fresh decoder is initialised where `start` asks.

        Raises:
            ConfigError: `start` on a decoder that cannot be initialised from data.
        """
        self.cues.build()
        if self.start and fresh:
            decoder_init.initialise(model, dataset, self.start)
        self._to_centre = dataset if self.centre else None
        self._keeps_mean = bool(self.centre) and not model.decoder.fresh
        if self._keeps_mean or self.anchor:
            self.initial = copy.deepcopy(model.decoder).requires_grad_(False).eval()
        if self.context == "ema" and self.slow is None:
            self.slow = copy.deepcopy(model.decoder).requires_grad_(False).eval()
        if self.mode == "erm" and self.head is None:
            self.head = nn.Conv2d(model.dim, self.cues.channels(model.backbone.dims), 1).to(model.device)
        if model.backbone.adapters() and (self.initial is not None or FEATURES in self.cues.names):  # stay as they were
            self.original = copy.deepcopy(model.backbone).requires_grad_(False).eval()
        return super().setup(model, dataset, fresh=fresh)

    def train(self, mode: bool = True) -> LilaObjective:
        """Cue networks and the copies stay in eval."""
        super().train(mode)
        for module in (self.slow, self.original, self.initial):
            if module is not None:
                module.eval()
        return self

    def after_step(self, model: DenseModel, step: int) -> None:
        """Move the slow copy."""
        if self.slow is not None:
            self.ema.move(self.slow, model.decoder, step)

    def finish(self, model: DenseModel) -> None:
        """Centre the features; see `centre`."""
        if self._to_centre is not None:
            backbone = model.backbone if self.original is None else self.original
            start = (backbone, self.initial) if self._keeps_mean and self.initial is not None else None
            decoder_init.centre(model, self._to_centre, self.centre, max(1, self.sampling.map_size // 4), start)

    # ------------------------------------------------------------------ one batch

    def prepare(self, model: DenseModel, batch: Batch) -> Batch:
        """Run the cue networks."""
        device = model.device.type
        half = device != "cpu" and torch.is_autocast_enabled(device)  # a CPU's bfloat16 may be slower
        with torch.autocast(device, enabled=False):
            return self.cues.prepare(batch, model.device, half)

    def forward(self, model: DenseModel, batch: Batch) -> Losses:
        """Losses of a batch of pairs; logs the L1 of each cue (standardised units) and the edge loss."""
        batch, device = self.prepare(model, batch), model.device
        images = torch.cat([batch["context"], batch["query"]]).to(device)
        size = (images.shape[-2], images.shape[-1])
        side = self.sampling.map_size
        features, padded = model.encode(images)
        pixels = model.decode(features, padded, size, (side, side))
        context, query = pixels.chunk(2)
        if self.context == "detached":
            context = context.detach()
        with torch.no_grad():
            if self.slow is not None:
                context = model.decode(features, padded, size, (side, side), self.slow).chunk(2)[0]
            if self.original is not None and (self.anchor or FEATURES in self.cues.names):
                features = self.original(padded)
            start = model.decode(features, padded, size, (side, side), self.initial) if self.anchor else None
        half = device.type != "cpu" and torch.is_autocast_enabled(device.type)
        # the networks may run in bfloat16; sums over thousands of pixels and a solve may not
        with torch.autocast(device.type, enabled=False):
            channels, targets = self.cues(features, images, batch)
            products = self.regression.products or ("bf16x3" if half else "float32")
            roles = ("context", "query") if self.mode == "erm" else ("query",)
            confidence = self.cues.confidence(channels, batch, device, *roles)
            if self.mode == "erm":
                losses = self._losses(pixels, *self._head(len(pixels)), channels, targets, products, confidence)
            else:
                context_cues, targets = targets.split()
                if self.refine:
                    count = sum(width for name, width in channels.items() if name != FEATURES)
                    both = (context_cues, targets)
                    context_cues, targets = refined(self.regression, (context, query), both, count, self.refine)
                weights, bias = self.regression.fit(context.float(), context_cues.pixels(self.regression.stride))
                losses = self._losses(query, weights, bias, channels, targets, products, confidence)
            if start is None:
                return losses
            apart = anchor_loss(pixels, start)
            return Losses(losses.total + self.anchor * apart, {**losses.logs, "anchor": apart.detach()})

    def _head(self, count: int) -> tuple[Tensor, Tensor]:
        """Weights and bias of the linear head, for each of some images."""
        if self.head is None or self.head.bias is None:
            raise InputError("The linear head is made by setup")
        weights = rearrange(self.head.weight, "k d 1 1 -> d k")
        return weights.expand(count, -1, -1), self.head.bias.expand(count, -1)

    def _losses(
        self, pixels: Tensor, weights: Tensor, bias: Tensor, channels: dict[str, int], targets: Targets, products: str,
        confidence: Tensor | None,
    ) -> Losses:  # fmt: skip
        """Fit + gamma * edges (eq. 3, 6)."""
        widths = list(channels.values())
        share = [1 / len(widths) if self.balance == "cues" else width / sum(widths) for width in widths]
        shares = torch.cat([weights.new_full((n,), part / n) for n, part in zip(widths, share, strict=True)])
        rows = rearrange(pixels, "b d h w -> b h w d")
        settings = shares, self.sigma, self.gamma, products
        total, fit, edges = self.loss.linear(rows, weights, bias, targets, *settings, confidence)
        logs = {name: part.mean() for name, part in zip(channels, fit.split(widths), strict=True)}
        if self.gamma:
            logs["edges"] = (shares * edges).sum()
        return Losses(total, logs)


def _settings(cls: type[S], value: S | Mapping[str, Any], name: str) -> S:
    return value if isinstance(value, cls) else typed(cls, value, "objective", name)
