"""Work on a map a block of rows at a time, so that what is between the maps and the result stays small.

A large tensor costs more than its arithmetic on a CPU: the system hands it out page by page, and no cache holds it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dense_ctx.interfaces import Size

LIMIT = 1 << 21  # numbers of a block of a decoder's result, 8 MB in float32; what comes before it is as large


def by_rows(function: Callable[[int, int], Tensor], height: int, rows: int) -> Tensor:
    """Join the blocks `function(start, stop)`, [..., stop - start, width], of `rows` rows each, in their layout.

    With gradients a block is computed again in the backward pass, so that it is not kept until then.
    """
    spans = [(start, min(start + rows, height)) for start in range(0, height, rows)]
    if len(spans) == 1:
        return function(0, height)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(function, *span, use_reentrant=False) for span in spans], -2)
    whole: Tensor | None = None
    for start, stop in spans:
        part = function(start, stop)
        if whole is None:
            last = part.ndim == 4 and part.is_contiguous(memory_format=torch.channels_last)
            shape = (*part.shape[:-2], height, part.shape[-1])
            whole = _empty(part, (shape[0], *shape[2:], shape[1])).movedim(-1, 1) if last else _empty(part, shape)
        whole[..., start:stop, :] = part
    assert whole is not None  # there is a row
    return whole


def decoded(function: Callable[[int, int], Tensor], batch: int, channels: int, size: Size) -> Tensor:
    """`by_rows` of a decoder's result [batch, channels, *size]."""
    return by_rows(function, size[0], max(1, LIMIT // (batch * channels * size[1])))


def suit(x: Tensor) -> bool:
    """Whether blocks are faster than the whole: on a CPU, without gradients, and outside of a graph."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def enlarged(x: Tensor, size: Size, align_corners: bool = False) -> Tensor:
    """[B, C, h, w] enlarged to `size`, bilinear."""
    return decoded(lambda start, stop: enlarged_rows(x, start, stop, size, align_corners), len(x), x.shape[1], size)


def enlarged_rows(x: Tensor, start: int, stop: int, size: Size, align_corners: bool = False) -> Tensor:
    """Rows `start` to before `stop` of [B, C, h, w] enlarged to `size`, bilinear, channels last in memory.

    PyTorch shares an image's enlargement among threads by images, not by rows; each row is an image here.
    """
    height, width = x.shape[-2:]
    if size == (height, width):
        return x[:, :, start:stop]
    x = x.movedim(1, -1)
    if height != size[0]:  # positions in float32, as PyTorch has them
        places = torch.arange(start, stop, dtype=torch.float32)
        if align_corners:
            places *= torch.tensor((height - 1) / max(1, size[0] - 1))
        else:
            places = ((places + 0.5) * torch.tensor(height / size[0]) - 0.5).clamp_min(0)
        low = places.long()
        above, below = (x.index_select(1, rows) for rows in (low, (low + 1).clamp_max(height - 1)))
        x = torch.lerp(above.float(), below.float(), (places - low)[:, None, None]).to(x.dtype)
    else:
        x = x[:, start:stop]
    if width != size[1]:
        rows = x.flatten(0, 1)[:, None].movedim(-1, 1)
        rows = functional.interpolate(rows, size=(1, size[1]), mode="bilinear", align_corners=align_corners)
        x = rows.movedim(1, -1).reshape(*x.shape[:2], size[1], x.shape[-1])
    return x.movedim(-1, 1)


def _empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """In the large pages that NumPy asks Linux for: PyTorch's take fifteen times as long to get, 80 ms for 200 MB."""
    if type(like) is not Tensor or like.device.type != "cpu" or torch.compiler.is_compiling():
        return like.new_empty(shape)
    buffer = np.empty(int(np.prod(shape)) * like.element_size(), np.uint8)
    return torch.from_numpy(buffer).view(like.dtype).view(shape)
