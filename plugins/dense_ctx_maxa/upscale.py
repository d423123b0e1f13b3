"""The small network that turns each query into 8 x 8 pixels (the paper's appendix A.6)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

FACTOR = 8
HALO = 2  # queries to each side that a query's pixels depend on: one for each 3 x 3 convolution


class Upscale(nn.Module):
    """Two transposed convolutions (x4, x2) with 3 x 3 convolutions before them, plus a bilinear skip branch.

    Args:
        channels: of the queries.
        width: D_CNN.
        dim: output channels.
    """

    def __init__(self, channels: int, width: int, dim: int) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(width, width, 4, stride=4),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(width, width, 2, stride=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, dim, 1),
        )
        self.skip = nn.Conv2d(channels, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, h, w] to [B, dim, 8 h, 8 w]."""
        # a 1 x 1 convolution and an interpolation commute, and it is 64 times less work this way round
        skip = functional.interpolate(self.skip(x), scale_factor=FACTOR, mode="bilinear", align_corners=False)
        out: Tensor = skip + self.cnn(x)
        return out
