"""LILA's loss on the query frame: L1 plus gradient matching (equations 3 to 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from .products import multiply

_CHUNK = 1 << 16  # values worked on at a time: they and their gradients stay in a core's cache


def edge_loss(prediction: Tensor, target: Tensor, sigma: float = 0.1, reduction: str = "mean") -> Tensor:
    """Match the gradients of cue maps where the target has an edge (eq. 4, 5).

    sum over both axes of (1 - exp(-d target / sigma)) * |d prediction - d target|, d the absolute forward difference.

    Args:
        prediction, target: [B, m, H, W].
        sigma: of the weight, in units of the target.
        reduction: "mean" over each axis' differences (the text does not say; this is ours), or "sum".

    Returns:
        [], both axes added.
    """
    total = prediction.new_zeros(())
    for axis in (-1, -2):
        change, target_change = prediction.diff(dim=axis).abs(), target.diff(dim=axis).abs()
        if not change.numel():
            continue
        terms = -torch.expm1(-target_change / sigma) * (change - target_change).abs()
        total = total + (terms.mean() if reduction == "mean" else terms.sum())
    return total


def gradient_type(pixels: Tensor) -> torch.dtype:
    """In which their gradient is kept: it is made before the loss is scaled, and in float16 would be 0."""
    return torch.float32 if pixels.dtype == torch.float16 else pixels.dtype


class Sums:
    """L1 and edges of each channel, and their gradients, a few rows of an image at a time.

    Neither the prediction nor, where they are products, the targets are ever there as a whole: a block of rows of both
    is multiplied, compared, and its gradient multiplied again while it is in the cache.

    Args: as of `dense_ctx_lila.matching_op.linear_matching`.
    """

    def __init__(
        self, pixels: Tensor, weights: Tensor, bias: Tensor, parts: tuple[Tensor, ...], shares: Tensor,
        edges: tuple[float, float], products: str, gradient: bool,
    ) -> None:  # fmt: skip
        batch, height, width, _ = pixels.shape
        self.pixels, self.weights, self.bias, self.parts = pixels, weights, bias, parts
        self.sigma, self.gamma = edges
        self.shares, self.products, self.gradient = shares, products, gradient
        channels = weights.shape[-1]
        self.size = height if pixels.is_cuda else max(1, _CHUNK // (width * channels))
        self.count = batch * height * width
        # differences an axis has: one less than its pixels
        self.counts = (max(1, batch * height * (width - 1)), max(1, batch * (height - 1) * width))
        self.fit = weights.new_zeros(channels, dtype=torch.float32)
        self.edges = torch.zeros_like(self.fit)
        self.scaled = (weights * (shares / self.count)).mT  # back to the features, shares among it
        # what belongs to a block, and before it the last row of the one above
        self.rows = [weights.new_empty(min(self.size, height) + 1, width, channels) for _ in range(3)]
        # d_pixels is written, the two others are sums
        self.d_pixels = pixels.new_empty(pixels.shape if gradient else 0, dtype=gradient_type(pixels))
        self.d_weights, self.d_bias = (x.new_zeros(x.shape if gradient else 0) for x in (weights, bias))
        for image in range(batch):
            for start in range(0, height, self.size):
                self._block(image, start, min(start + self.size, height))
        if gradient:
            self.d_weights *= shares / self.count
            self.d_bias *= shares / self.count

    @property
    def results(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """total [], fit [K], edges [K] in float32; gradients of the total by pixels, weights and bias, or empty."""
        total = (self.shares * (self.fit + self.gamma * self.edges)).sum().float()
        return total, self.fit, self.edges, self.d_pixels, self.d_weights, self.d_bias

    def _block(self, image: int, start: int, stop: int) -> None:
        new = slice(1, 1 + stop - start)
        p, t, g = (buffer[new] for buffer in self.rows)
        self._multiply(image, start, stop, p, t)
        torch.sub(p, t, out=g)
        self.fit += torch.linalg.vector_norm(g, 1, (0, 1)) / self.count
        g.sign_()
        first = 0 if start else 1
        if self.gamma:
            self._edges(p[:, 1:] - p[:, :-1], t[:, 1:] - t[:, :-1], g[:, 1:], g[:, :-1], 0)
            p, t, g = (buffer[first : new.stop] for buffer in self.rows)
            self._edges(p[1:] - p[:-1], t[1:] - t[:-1], g[1:], g[:-1], 1)
        if self.gradient:
            height = self.pixels.shape[1]
            stop_row = new.stop if stop == height else new.stop - 1  # the last row waits for the one below
            self._back(image, start + first - 1, self.rows[2][first:stop_row])
        for buffer in self.rows:
            buffer[0] = buffer[new.stop - 1]

    def _multiply(self, image: int, start: int, stop: int, p: Tensor, t: Tensor) -> None:
        """The prediction and the targets of some rows, into p and t [rows, W, K]."""
        shares, cells, offset, plain = (part[image] for part in self.parts)
        x = self.pixels[image, start:stop].to(p.dtype)
        multiply(x.flatten(0, 1), self.weights[image], self.products, p.flatten(0, 1)).add_(self.bias[image])
        mixed = cells.shape[-1]
        t[..., mixed:] = plain[start:stop]
        if mixed:
            product = multiply(shares[start:stop].flatten(0, 1), cells, self.products)
            torch.add(product.unflatten(0, t.shape[:2]), offset, out=t[..., :mixed])

    def _edges(self, change: Tensor, wanted: Tensor, after: Tensor, before: Tensor, axis: int) -> None:
        """Add an axis' terms to the sums and their gradient to that of the pixels after and before each difference."""
        if not change.numel():
            return
        # the derivative of weight * | |change| - |wanted| | by the change; both arguments are used up
        excess = change.abs().sub_(wanted.abs_())
        weight = wanted.mul_(-1 / self.sigma).expm1_().neg_()
        pull = change.mul_(excess).sign_().mul_(weight)
        self.edges += torch.linalg.vector_norm(excess.mul_(weight), 1, (0, 1)) / self.counts[axis]
        factor = self.gamma * self.count / self.counts[axis]
        after.add_(pull, alpha=factor)
        before.sub_(pull, alpha=factor)

    def _back(self, image: int, start: int, grad: Tensor) -> None:
        """Gradients of some rows whose own, [rows, W, K] without the channels' shares, is complete."""
        if not len(grad):
            return
        rows = grad.flatten(0, 1)
        x = self.pixels[image, start : start + len(grad)].to(grad.dtype).flatten(0, 1)
        to = self.d_pixels[image, start : start + len(grad)].flatten(0, 1)
        if to.dtype == rows.dtype:
            multiply(rows, self.scaled[image], self.products, to)
        else:
            to.copy_(multiply(rows, self.scaled[image], self.products))
        if self.products == "float32":
            self.d_weights[image].addmm_(x.mT, rows)
        else:
            self.d_weights[image] += multiply(x.mT, rows, self.products)
        self.d_bias[image] += rows.sum(0)
