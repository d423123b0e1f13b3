"""The projection used in post-training only (DIP, appendix A)."""

from __future__ import annotations

from torch import Tensor, nn


class Projector(nn.Module):
    """Two linear layers with an exact GELU between, then LayerNorm; rows [..., C] to [..., out].

    The text says the projection ends in an L2 norm; the published code has a LayerNorm here, and the L2 norm inside the
    attention. Both are done.

    Args:
        dim: C, channels of a patch feature.
        hidden: width between, as a multiple of C.
        out: output channels.
    """

    def __init__(self, dim: int, hidden: int = 7, out: int = 6144) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden * dim, out)
        self.norm = nn.LayerNorm(out, eps=1e-6)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., C] to [..., out]."""
        return self.norm(self.fc2(self.act(self.fc1(rows))))  # type: ignore[no-any-return]
