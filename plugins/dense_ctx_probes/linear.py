"""The linear probe: a 1x1 convolution on standardised features, trained to its optimum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dense_ctx.errors import NotFittedError
from dense_ctx.interfaces import DenseFeatures, Probe, Size, Task
from dense_ctx.persistence.file_args import SEEDS
from dense_ctx.persistence.tensors import require_state

from .targets import at_size, linear_scores, rows_of


class LinearProbe(Probe):
    """Cross-entropy (or squared error) by full-batch L-BFGS: convex, so the same data give the same probe.

    It keeps a sample of the labelled pixels, and `partial_fit` trains again from its last weights.

    Args:
        task: see `dense_ctx.Probe`.
        penalty: weight decay on the standardised weights.
        samples: most labelled pixels stored; of more, a seeded uniform sample.
        iterations: of L-BFGS, at most.
        seed: of the sample.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {
        "penalty": (0.0, 1e9),
        "samples": range(1, 1 << 24),
        "iterations": range(1, 10_001),
        "seed": SEEDS,
    }

    def __init__(
        self,
        task: Task = "segmentation",
        penalty: float = 1e-4,
        samples: int = 32_768,
        iterations: int = 60,
        seed: int | None = None,
    ) -> None:
        super().__init__(task, seed)
        self.penalty, self.samples, self.iterations = penalty, samples, iterations
        self.rows_: Tensor | None = None
        self.targets_ = torch.empty(0)
        self.keys_ = torch.empty(0)
        self.seen_ = 0
        self._fitted: tuple[Tensor, Tensor] | None = None

    def partial_fit(self, features: DenseFeatures, targets: Tensor) -> LinearProbe:
        """Add the labelled pixels of B images; the first prediction trains."""
        rows, values = rows_of(features, targets, self.task, self.targets_.shape[-1] if self.rows_ is not None else 0)
        generator = torch.Generator().manual_seed(self.seed + self.seen_)
        # each pixel draws a number, and the smallest are kept, so that the sample does not depend on the calls
        draws = torch.rand(len(rows), generator=generator)
        if len(rows) > self.samples:
            smallest = draws.topk(self.samples, largest=False).indices.sort().values
            rows, values, draws = (
                rows[smallest.to(rows.device)],
                values[smallest.to(values.device)],
                draws[smallest],
            )
        self.seen_ += int(targets.numel())
        rows, values = rows.float().cpu(), values.cpu()
        if self.rows_ is not None:
            old = functional.pad(self.targets_, (0, values.shape[1] - self.targets_.shape[1]))
            rows, values = torch.cat([self.rows_, rows]), torch.cat([old, values])
            draws = torch.cat([self.keys_, draws])
        if len(rows) > self.samples:
            smallest = draws.topk(self.samples, largest=False).indices.sort().values
            rows, values, draws = rows[smallest], values[smallest], draws[smallest]
        self.rows_, self.targets_, self.keys_ = rows, values, draws
        self._fitted = None
        return self

    @property
    def coef_(self) -> tuple[Tensor, Tensor]:
        """Weight [D, K] and bias [K], on the features as they come."""
        if self.rows_ is None:
            raise NotFittedError("No data yet: call fit first")
        if self._fitted is None:
            with torch.inference_mode(False), torch.enable_grad():
                self._fitted = self._train(self.rows_.clone(), self.targets_.clone())
        return self._fitted

    def _train(self, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = rows.mean(0), rows.std(0, correction=0).clamp_min(1e-6)
        x = (rows - mean) / scale
        centre = targets.mean(0) if self.task == "regression" else torch.zeros(targets.shape[1])
        spread = targets.std(0, correction=0).clamp_min(1e-6) if self.task == "regression" else torch.ones(1)
        y = (targets - centre) / spread if self.task == "regression" else targets.argmax(1)
        weight = nn.Parameter(torch.zeros(rows.shape[1], targets.shape[1]))
        bias = nn.Parameter(torch.zeros(targets.shape[1]))
        optimizer = torch.optim.LBFGS(
            [weight, bias], max_iter=self.iterations, history_size=10, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            out = x @ weight + bias
            fit = functional.cross_entropy(out, y) if self.task == "segmentation" else functional.mse_loss(out, y)
            loss = fit + self.penalty * weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        with torch.no_grad():
            plain = weight / scale[:, None]
            return (plain * spread).detach(), ((bias - mean @ plain) * spread + centre).detach()

    def predict(self, features: DenseFeatures, size: Size | None = None) -> Tensor:
        """[B, K, *size]: probabilities or values."""
        weight, bias = (part.to(features.pixels.device) for part in self.coef_)
        scores = linear_scores(features.pixels.float(), weight) + bias[:, None, None]
        scores = at_size(scores, size, features.pixels)
        return scores.softmax(1) if self.task == "segmentation" else scores

    def state_dict(self) -> dict[str, Tensor]:
        """The stored sample; after loading, training is repeated and gives the same weights."""
        if self.rows_ is None:
            raise NotFittedError("Nothing to save: call fit first")
        return {
            "rows": self.rows_,
            "targets": self.targets_,
            "draws": self.keys_,
            "seen": torch.tensor(self.seen_),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a sample."""
        layout = {
            "rows": (torch.float32, ("M", "d")), "targets": (torch.float32, ("M", "K")),
            "draws": (torch.float32, ("M",)), "seen": (torch.int64, ()),
        }  # fmt: skip
        require_state(state, layout, "The state is not that of a linear probe")
        self.rows_, self.targets_, self.keys_ = state["rows"], state["targets"], state["draws"]
        self.seen_ = int(state["seen"])
        self._fitted = None
