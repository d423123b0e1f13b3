"""The projection head of post-training, discarded afterwards (DIP, appendix A)."""

from __future__ import annotations

from torch import Tensor, nn


class Projector(nn.Module):
    """Linear, exact GELU, linear, LayerNorm: rows [..., C] to [..., out].

    In the paper the projection ends in an L2 norm; the published code has a LayerNorm here and the L2 norm in the
    attention. This one follows the code.

    Args:
        dim: C, channels of a patch feature.
        hidden: width of the hidden layer, as a multiple of C.
        out: output channels.
    """

    def __init__(self, dim: int, hidden: int = 7, out: int = 6144) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden * dim, out)
        self.norm = nn.LayerNorm(out, eps=1e-6)

    def forward(self, rows: Tensor) -> Tensor:
        """Project [..., C] to [..., out]."""
        return self.norm(self.fc2(self.act(self.fc1(rows))))  # type: ignore[no-any-return]
