"""LILA: linear in-context learning of pixel features from video (arXiv 2604.26488, section 3).

Features of a context frame explain its cue maps through a ridge regression; the same coefficients, applied to the
features of a nearby frame, must explain that frame's cues. Cues that do not hold from frame to frame cannot be
predicted so, and their noise leaves no trace.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from dense_ctx.errors import ConfigError, InputError
from dense_ctx.interfaces import Batch, Losses, Objective
from dense_ctx.model import DenseModel
from dense_ctx.numerics import Bias, ridge_apply, ridge_fit

from . import decoder_init as calibrate
from .cue_targets import FEATURES, CueMaps
from .feature_cue import OwnCue
from .losses import matching_loss
from .sampling import FramePairs, Sampling, open_clips


class LilaObjective(Objective):
    """Train a decoder on pairs of video frames.

    Args:
        cues: "features" (the backbone's own maps, refined) and registered cues, "NAME" or "NAME(key=value, ...)".
        mode: "in-context" (the method) or "erm" (a linear head predicts each frame's cues: the paper's ablation A).
        context: through which features the coefficients come: "shared" (gradients flow through the solve),
            "detached" (they do not) or "ema" (of a slow copy of the decoder).
        ema: momentum of that copy.
        layers, project, pamr, pyramid, iterations, dilations: of the features cue, see `OwnCue`.
        penalty: lambda of the ridge regression, on the Gram matrix divided by the number of pixels.
        relative: penalty in units of the context features' mean variance. Else a decoder lowers the loss by shrinking
            what varies beside a constant, which the bias takes up: the regression generalises, cosines are useless.
        bias: "free" (a column of ones that is not penalised, ours), "penalized" (FlowFeat) or "none" (eq. 2).
        stride: every stride-th pixel of the context enters the regression.
        sigma, gamma: of the edge loss; gamma 0 leaves it out.
        balance: "cues" (each cue counts the same) or "channels" (each channel does, as in one concatenated map).
        start: this many pairs of the data give a decoder that has `fit_shortcut` its first weights (0: random ones).
        centre: after training, take from the features their mean over so many crops of the data, where the decoder has
            `shift`. A free bias leaves the mean to chance, and cosines between features that share a large one say
            little; linear probes do not notice. 0: leave it.
        spectrum: after training, the variance of each principal component of the features is taken to this power, the
            sum kept; 1 leaves it. Above 1 strong components get stronger: a probe that learns from one image is then
            less led by the weak ones. Needs a decoder with `mix`, and `centre`, whose crops it reads.
        map_size: side of the maps on which cues are predicted; 0: `size`, every pixel. Half of it lets a CNN see
            crops at the scale of whole frames, with enough cells of its coarse maps, at a quarter of the cost.
        gap, crop, size, frame_side, cue_side, same_frame, memory: see `Sampling`.
        cue_cache: folder that `dense-ctx cues` wrote at this cue_side: maps are read, no cue network is built.
    """

    def __init__(
        self,
        cues: Sequence[str] = (FEATURES, "flow:dis"),
        mode: Literal["in-context", "erm"] = "in-context",
        context: Literal["shared", "detached", "ema"] = "shared",
        ema: float = 0.999,
        layers: Sequence[int] = (-1,),
        project: int = 0,
        pamr: bool = True,
        pyramid: Sequence[int] = (4, 2, 1),
        iterations: Sequence[int] = (20, 10, 5),
        dilations: Sequence[int] = (1, 3, 5),
        penalty: float = 0.1,
        relative: bool = True,
        bias: Bias = "free",
        stride: int = 7,
        sigma: float = 0.1,
        gamma: float = 1.0,
        balance: Literal["cues", "channels"] = "cues",
        start: int = 0,
        centre: int = 64,
        spectrum: float = 1.0,
        gap: Sequence[int] = (1, 5),
        crop: Sequence[float] = (0.5, 0.75),
        size: int = 224,
        map_size: int = 0,
        frame_side: int = 480,
        cue_side: int = 256,
        same_frame: bool = False,
        memory: int = 1_000_000_000,
        cue_cache: str | None = None,
    ) -> None:
        super().__init__()
        for value, known, name in (
            (mode, ("in-context", "erm"), "mode"),
            (context, ("shared", "detached", "ema"), "context"),
            (balance, ("cues", "channels"), "balance"),
        ):
            if value not in known:
                raise ConfigError(f"{name}={value!r}: expected one of {', '.join(known)}")
        if min(project, start, centre) < 0:
            raise ConfigError(
                f"project={project}, start={start}, centre={centre}: a number of channels, of pairs, of crops; or 0"
            )
        if not penalty > 0 or stride < 1 or not sigma > 0 or gamma < 0:
            raise ConfigError(
                f"penalty={penalty}, stride={stride}, sigma={sigma}, gamma={gamma}: expected above 0, at least 1, "
                "above 0, at least 0"
            )
        self.mode, self.context, self.ema, self.penalty, self.bias = mode, context, ema, penalty, bias
        self.relative = relative
        self.stride, self.sigma, self.gamma, self.balance = stride, sigma, gamma, balance
        self.sampling = Sampling(
            (gap[0], gap[1]), (crop[0], crop[1]), size, map_size, frame_side, cue_side, same_frame, memory
        )
        if not spectrum > 0 or (spectrum != 1 and not centre):
            raise ConfigError(
                f"spectrum={spectrum}, centre={centre}: a power above 0; other than 1 it needs centre > 0"
            )
        self.start, self.centre, self.spectrum = start, centre, spectrum
        self._data: FramePairs | None = None
        own = OwnCue(tuple(layers), project, pamr, tuple(pyramid), tuple(iterations), tuple(dilations))
        self.cues = CueMaps(cues, own, self.sampling, cue_cache)
        self.slow: nn.Module | None = None
        self.head: nn.Conv2d | None = None

    def dataset(self, data: Any) -> Dataset[Any]:
        """Frame pairs of the clips that `data` names; see `sampling.open_clips`."""
        cues = self.cues
        self._data = FramePairs(open_clips(data), self.sampling, cues.light, bool(cues.heavy), cues.cache)
        return self._data

    def collate(self, samples: list[Any]) -> Batch:
        """Stack everything but the whole frames, which differ in size from clip to clip."""
        batch: dict[str, Any] = {}
        for key in samples[0]:
            values = [sample[key] for sample in samples]
            batch[key] = values if key in ("name", "frames") else torch.stack(values)
        return batch

    def setup(self, model: DenseModel, dataset: Dataset[Any], *, fresh: bool) -> list[dict[str, Any]]:
        """The decoder, started from the data where asked; with "erm" also the head."""
        calibrate.needs_mix(model, self.spectrum)
        if self.start and fresh:
            calibrate.start(model, self._data, self.start)
        if self.context == "ema" and self.slow is None:
            self.slow = copy.deepcopy(model.decoder).requires_grad_(False).eval()
        if self.mode == "erm" and self.head is None:
            self.head = nn.Conv2d(model.dim, self.cues.channels(model.backbone.dims), 1).to(model.device)
        return super().setup(model, dataset, fresh=fresh)

    def train(self, mode: bool = True) -> LilaObjective:
        """Cue networks and the slow copy stay in eval."""
        super().train(mode)
        if self.slow is not None:
            self.slow.eval()
        return self

    def after_step(self, model: DenseModel, step: int) -> None:
        """Move the slow copy."""
        if self.slow is None:
            return
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), model.decoder.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.ema)

    def finish(self, model: DenseModel) -> None:
        """Centre the features and set their spectrum; see `centre` and `spectrum`."""
        calibrate.finish(model, self._data, self.centre, self.spectrum)

    # ------------------------------------------------------------------ one batch

    def forward(self, model: DenseModel, batch: Batch) -> Losses:
        """Losses of a batch of pairs; logs the L1 of each cue (standardised units) and the edge loss."""
        device = model.device
        images = torch.cat([batch["context"], batch["query"]]).to(device)
        size = (images.shape[-2], images.shape[-1])
        side = self.sampling.map_size
        with torch.no_grad():
            features, padded = model.encode(images)
        pixels = model.decode(features, padded, size, (side, side)).float()
        context, query = pixels.chunk(2)
        if self.context == "detached":
            context = context.detach()
        elif self.slow is not None:
            with torch.no_grad():
                context = model.decode(features, padded, size, (side, side), self.slow).float().chunk(2)[0]
        # the networks may run in bfloat16; sums over thousands of pixels and a solve may not
        with torch.autocast(device.type, enabled=False):
            cues = self.cues(features, images, batch)
            return self._erm(pixels, cues) if self.mode == "erm" else self._in_context(context, query, cues)

    def _in_context(self, context: Tensor, query: Tensor, cues: list[tuple[str, Tensor, Tensor]]) -> Losses:
        offset, step = self.stride // 2, self.stride
        rows = context[:, :, offset::step, offset::step].flatten(2).transpose(1, 2)
        known = torch.cat([maps for _, maps, _ in cues], 1)[:, :, offset::step, offset::step]
        known = known.flatten(2).transpose(1, 2)
        pixels = query.flatten(2).transpose(1, 2)
        if self.relative:
            scale = rows.var(1, correction=0).mean(1).clamp_min(1e-12).rsqrt()[:, None, None]
            rows, pixels = rows * scale, pixels * scale
        weights = ridge_fit(rows, known, self.penalty, bias=self.bias)
        predicted = ridge_apply(pixels, weights).transpose(1, 2).unflatten(-1, query.shape[-2:])
        return self._losses(predicted, [(name, maps) for name, _, maps in cues])

    def _erm(self, pixels: Tensor, cues: list[tuple[str, Tensor, Tensor]]) -> Losses:
        if self.head is None:
            raise InputError("The linear head is made by setup")
        targets = [(name, torch.cat([context, query])) for name, context, query in cues]
        return self._losses(self.head(pixels), targets)

    def _losses(self, predicted: Tensor, targets: list[tuple[str, Tensor]]) -> Losses:
        """L1 + gamma * edges (eq. 3, 6)."""
        widths = [maps.shape[1] for _, maps in targets]
        share = [1 / len(targets) if self.balance == "cues" else width / sum(widths) for width in widths]
        weights = torch.cat([predicted.new_full((n,), part / n) for n, part in zip(widths, share, strict=True)])
        joined = torch.cat([maps for _, maps in targets], 1)
        total, fit, edges = matching_loss(predicted, joined, weights, self.sigma, self.gamma)
        logs = {name: part.mean() for (name, _), part in zip(targets, fit.split(widths), strict=True)}
        if self.gamma:
            logs["edges"] = (weights * edges).sum()
        return Losses(total, logs)
