"""Forms of the loss between predicted and true cue maps: LILA's (equations 3 to 6) and those of FlowFeat's code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import ConfigError

from .matching_op import linear_matching
from .products import multiply
from .targets import Targets

Fit = Literal["l1", "l2", "smooth", "huber"]
Edges = Literal["l1", "l1norm", "l2norm", "smooth", "huber"]
_BENT = ("smooth", "huber")


@dataclass(frozen=True)
class Matching:
    """The comparison of predicted and true maps.

    fit: of the maps themselves: "l1" (LILA), "l2", "smooth" (L1, quadratic below beta and divided by it) or "huber".
    beta: of "smooth" and "huber"; None: 1.
    weight: of the fit, beside gamma of the edges. FlowFeat has 0.1 times the L1 summed over flow's two channels, and 1
        times the mean of the edges: weight 0.2 with balance=channels.
    edges: of the absolute differences between neighbours: "l1" (LILA: weight 1 - exp(-d target / sigma), mean),
        "l1norm" (FlowFeat's default: the weights of a map sum to 1) or "l2norm" (squares, so too); "smooth" and "huber"
        without weights, with sigma for beta. A map without any edge counts 0 in the two; in FlowFeat's code NaN.
    """

    fit: Fit = "l1"
    beta: float | None = None
    weight: float = 1.0
    edges: Edges = "l1"

    def __post_init__(self) -> None:
        for name, value, words in (("fit", self.fit, Fit), ("edges", self.edges, Edges)):
            if value not in get_args(words):
                raise ConfigError(f"loss.{name}={value!r}: expected one of {', '.join(get_args(words))}")
        if not self.weight > 0 or not (self.beta is None or self.beta > 0):
            raise ConfigError(f"loss.weight={self.weight}, loss.beta={self.beta}: expected above 0")
        if self.beta is not None and self.fit not in _BENT:
            raise ConfigError(f"loss.beta would have no effect with loss.fit={self.fit}: leave it out")

    def __call__(
        self, prediction: Tensor, target: Tensor, shares: Tensor, sigma: float, gamma: float,
        confidence: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """The total [] with a gradient; fit and edges of each channel [m], without, unweighted.

        Args:
            prediction, target: [B, m, H, W]. shares: [m], of the channels in the total.
            sigma, gamma: of the edges, and their weight.
            confidence: of each value, [B, m, H, W] from 0 to 1: its errors are multiplied by it, and those of the
                difference between two neighbours by the lower of both. None: 1.
        """
        fit = _mean(_bent(prediction, target, self.fit, 1.0 if self.beta is None else self.beta), confidence)
        edges = torch.zeros_like(fit)
        if gamma:
            for axis in (-1, -2):
                both = None
                if confidence is not None:
                    length = confidence.shape[axis] - 1
                    both = torch.minimum(confidence.narrow(axis, 0, length), confidence.narrow(axis, 1, length))
                change, reference = prediction.diff(dim=axis).abs(), target.diff(dim=axis).abs()
                edges = edges + self._edges(change, reference, sigma, both)
        total = (shares * (self.weight * fit + gamma * edges)).sum()
        return total, fit.detach(), edges.detach()

    def linear(
        self, pixels: Tensor, weights: Tensor, bias: Tensor, targets: Targets, shares: Tensor, sigma: float,
        gamma: float, products: str, confidence: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Of the prediction pixels @ weights + bias: LILA's own form in one pass, the others as a call of this.

        Args:
            pixels: [B, H, W, D]. weights: [B, D, K]. bias: [B, K].
            products: see `products.multiply`.
            confidence: of the last channels, [B, H, W, M]; as maps of those, outside the one pass.
        """
        if confidence is not None and targets.channels > (count := confidence.shape[-1]):
            halves = (slice(None, -count), None), (slice(-count, None), confidence)
            results = [
                self.linear(pixels, weights[..., own], bias[:, own], part, shares[own], sigma, gamma, products, trust)
                for part, (own, trust) in zip(targets.apart(count), halves, strict=True)
            ]
            totals, fits, edges = zip(*results, strict=True)
            return torch.stack(totals).sum(), torch.cat(fits), torch.cat(edges)
        if confidence is None and self.fit == self.edges == "l1":
            share, gamma = shares * self.weight, gamma / self.weight
            return linear_matching(pixels, weights, bias, targets, share, sigma, gamma, products)
        rows = multiply(pixels.flatten(1, 2).to(weights.dtype), weights, products) + bias[:, None]
        maps = rows.unflatten(1, pixels.shape[1:3]), targets.pixels()
        prediction, target = (rearrange(each, "b h w k -> b k h w") for each in maps)
        trust = None if confidence is None else rearrange(confidence, "b h w k -> b k h w")
        return self(prediction, target, shares, sigma, gamma, trust)

    def _edges(self, change: Tensor, wanted: Tensor, sigma: float, confidence: Tensor | None) -> Tensor:
        if not change.numel():
            return change.new_zeros(change.shape[1])
        if self.edges in _BENT:
            return _mean(_bent(change, wanted, self.edges, sigma), confidence)
        terms = -torch.expm1(-wanted / sigma)
        if self.edges != "l1":
            terms = terms / terms.sum((-1, -2), keepdim=True).clamp_min(torch.finfo(terms.dtype).tiny)
            terms = terms * change.shape[-1] * change.shape[-2]  # a mean below, FlowFeat's sum
        off = change - wanted
        return _mean(terms * (off.square() if self.edges == "l2norm" else off.abs()), confidence)


def _mean(errors: Tensor, confidence: Tensor | None) -> Tensor:
    """Of each channel of [B, m, H, W]; errors without confidence count as pixels with an error of 0."""
    return (errors if confidence is None else errors * confidence).mean((0, 2, 3))


def _bent(one: Tensor, two: Tensor, form: str, beta: float) -> Tensor:
    if form == "smooth":
        return functional.smooth_l1_loss(one, two, reduction="none", beta=beta)
    if form == "huber":
        return functional.huber_loss(one, two, reduction="none", delta=beta)
    return (one - two).square() if form == "l2" else (one - two).abs()
