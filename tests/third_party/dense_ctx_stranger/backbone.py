"""A backbone: two convolutions."""

import torch
from torch import Tensor, nn

from dense_ctx.interfaces import Backbone, Features


class Blocks(Backbone):
    """Blocks of 4 x 4 and 8 x 8 pixels through two convolutions, with the same weights every time.

    Args:
        width: channels of the finer map; the coarser one has twice as many.
        adapt: let the last bias train under any objective.
    """

    def __init__(self, width: int = 6, adapt: bool = False) -> None:
        super().__init__()
        self.dims, self.strides, self.stride = (width, 2 * width), (4, 8), 8
        self.mean, self.std, self.image_size = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), (16, 32)
        self.shallow = nn.Conv2d(3, width, 4, stride=4)
        self.deep = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.adapt = adapt
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))

    def forward(self, images: Tensor) -> Features:
        """Encode [B, 3, H, W] to [B, width, H/4, W/4] and [B, 2 width, H/8, W/8]; cls is the mean of the second."""
        shallow = self.shallow(images).tanh()
        deep = self.deep(shallow).tanh()
        return Features((shallow, deep), deep.mean((2, 3)), (images.shape[-2], images.shape[-1]))

    def blocks(self) -> list[str]:
        """The two convolutions."""
        return ["shallow", "deep"]

    def adapters(self) -> list[str]:
        """The last bias, where asked for."""
        return ["deep.bias"] if self.adapt else []
