"""Sufficient statistics of a ridge regression, accumulated batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError, NotFittedError
from dense_ctx.numerics import Bias, IllConditioned, require_finite, solve


class RidgeStats:
    """Sufficient statistics of a ridge regression, accumulated in batches: X'X and X'Y in float64, with a bias column.

    The solution equals that of all rows at once. Columns of Y may be added later (a new class); earlier rows count as
    0 in them.
    """

    def __init__(self) -> None:
        self.gram: Tensor | None = None
        self.cross: Tensor | None = None

    @property
    def count(self) -> float:
        """Number of rows added."""
        return 0.0 if self.gram is None else float(self.gram[-1, -1])

    def update(self, features: Tensor, targets: Tensor) -> None:
        """Add rows: features [N, d], targets [N, m].

        Raises:
            InputError: shapes that do not match.
            NonFiniteError: NaN or infinity in either; the block of rows that has it is not added.
        """
        if features.ndim != 2 or len(features) != len(targets):
            raise InputError(
                f"features [N, d] and targets [N, m] do not match: {list(features.shape)}, {list(targets.shape)}"
            )
        size = features.shape[1] + 1
        if self.gram is None or self.cross is None:
            self.gram = torch.zeros(size, size, dtype=torch.float64)
            self.cross = torch.zeros(size, targets.shape[1], dtype=torch.float64)
        if len(self.gram) != size:
            raise InputError(f"features have {size - 1} dimensions; earlier ones had {len(self.gram) - 1}")
        if targets.shape[1] > self.cross.shape[1]:
            self.cross = functional.pad(self.cross, (0, targets.shape[1] - self.cross.shape[1]))
        # float32 products over a bounded number of rows, summed in float64
        for x, y in zip(features.split(1 << 15), targets.split(1 << 15), strict=True):
            x = functional.pad(x.float(), (0, 1), value=1.0)
            gram, cross = (x.T @ x).cpu(), (x.T @ y.float()).cpu()
            # of the products, which are small: a NaN or infinity in a row is in them too
            require_finite("The rows of the ridge regression", "Look at the features", features=gram)
            require_finite("The rows of the ridge regression", "Look at the targets", targets=cross)
            self.gram += gram
            self.cross[:, : y.shape[1]] += cross

    def solve(self, penalty: float, *, bias: Bias = "free", mean: bool = True) -> Tensor:
        """Coefficients [d + 1, m] with the bias last, or [d, m] without one, float32; arguments as `RidgeProbe`.

        Raises:
            NotFittedError: no rows yet.
            InputError: the system is singular.
        """
        if self.gram is None or self.cross is None or self.count == 0:
            raise NotFittedError("No data yet: call update first")
        rows, total = len(self.gram) - (bias == "none"), self.count if mean else 1.0
        system = self.gram[:rows, :rows] / total
        system.diagonal()[: rows - (bias == "free")] += penalty
        try:
            return solve(system, self.cross[:rows] / total).float()
        except IllConditioned:
            raise InputError(f"The ridge system is singular at penalty={penalty}; ask for a larger one") from None
