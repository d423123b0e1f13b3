"""Convolutions with TensorFlow's "same" padding as convolutions with a constant one.

timm computes that padding from the size of each input. Behind an image whose sides are multiples of the network's
stride every input is a multiple of its convolution's, and the padding is always the same: kernel - stride. Arithmetic
on symbolic sizes would take PyTorch's exporter minutes.
"""

from __future__ import annotations

from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional


class ConstantPadding(nn.Module):
    """A convolution with "same" padding, of inputs that are multiples of its stride."""

    def __init__(self, convolution: Conv2dSame) -> None:
        super().__init__()
        self.convolution = convolution
        self.padding: list[int] = []
        sides = zip(convolution.kernel_size, convolution.stride, convolution.dilation, strict=True)
        for kernel, stride, dilation in reversed(list(sides)):  # the last axis first, as `functional.pad` has them
            total = max((kernel - 1) * dilation + 1 - stride, 0)
            self.padding += [total // 2, total - total // 2]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H / stride, W / stride]."""
        layer = self.convolution
        x = functional.pad(x, self.padding)
        return functional.conv2d(x, layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups)


def constant_paddings(module: nn.Module) -> None:
    """Replace timm's "same" convolutions in a network, in place."""
    for name, child in module.named_children():
        if isinstance(child, Conv2dSame):
            setattr(module, name, ConstantPadding(child))
        else:
            constant_paddings(child)
