"""A graph as an ExportedProgram of torch.export, of one size or of any."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest import mock

import dense_ctx_backbones.positions
import dense_ctx_dpt.resizing
import torch
from dense_ctx_runtime.geometry import Size
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from . import resizing
from .graph import Dims, Graph, OneSize

_MOST = 512  # cells of the stride a side


def trace(graph: Graph, size: Size | None) -> tuple[ExportedProgram, dict[str, Tensor]]:
    """The program, and inputs by name that it was traced with.

    Args:
        size: (H, W) of all images; None: any.

    Raises:
        Exception: whatever torch.export cannot express.
    """
    graph.eval()
    if size is not None:
        inputs = {"image": torch.rand(1, 3, *size)}
        with _sizes_from_inputs(graph):
            return _export(OneSize(graph, size).eval(), inputs, None), inputs
    # sides that are no multiples of the stride, so that the image's and the padded one's differ, and that differ from
    # each other and from all constants, so that none is mistaken for another
    inputs = graph.example((4 * graph.stride + 1, 6 * graph.stride + 1))
    with _positions_of_any_grid(), _sizes_from_inputs(graph):
        return _export(graph, inputs, graph.dims()), inputs


def _export(module: nn.Module, inputs: Mapping[str, Tensor], dims: Dims | None) -> ExportedProgram:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = None if dims is None else {name: _dynamic(shape) for name, shape in dims.items()}
        return torch.export.export(module, tuple(inputs.values()), dynamic_shapes=shapes, strict=False)


def _dynamic(shape: tuple[str | int, ...]) -> dict[int, object]:
    """Of ("n", "32*h", 3): a size for each letter, one for all uses of it."""
    result: dict[int, object] = {}
    for axis, item in enumerate(shape):
        if isinstance(item, str):
            factor, _, letter = item.rpartition("*")
            dim = Dim(letter, min=2, max=_MOST) if factor else Dim(letter, min=2, max=1 << 15)
            result[axis] = int(factor) * dim if factor else dim
    return result


@contextmanager
def _positions_of_any_grid() -> Iterator[None]:
    """DINO's and DINOv2's rule for position tables, in operations that keep the grid a variable."""
    with mock.patch.object(dense_ctx_backbones.positions, "interpolate", interpolate):
        yield


@contextmanager
def _sizes_from_inputs(graph: Graph) -> Iterator[None]:
    """Where a graph decodes at a size that its inputs tell: resizing that keeps it a variable."""
    if not graph.decodes_at_size:
        yield
        return
    module = dense_ctx_dpt.resizing
    with (
        mock.patch.object(module, "resize", resizing.resize),
        mock.patch.object(module, "at_size", resizing.at_size),
    ):
        yield


def interpolate(table: Tensor, grid: Size, new: Size, offset: float = dense_ctx_backbones.positions.OFFSET) -> Tensor:
    """As `dense_ctx_backbones.positions.interpolate`: bicubic without antialiasing, as a product with two matrices."""
    sides = [torch.ones(side).sum() for side in new]  # tensors, where numbers would become constants of the graph
    same = torch.logical_and(sides[0] == grid[0], sides[1] == grid[1])
    rows, columns = (
        _bicubic(side, old, torch.where(same, 1.0, (count + offset) / old))
        for side, old, count in zip(new, grid, sides, strict=True)
    )
    planes = table[0].float().reshape(*grid, -1).permute(2, 0, 1)
    large = torch.matmul(torch.matmul(rows, planes), columns.T)
    return large.permute(1, 2, 0).reshape(1, new[0] * new[1], -1).to(table.dtype)


def _bicubic(after: int, before: int, scale: Tensor) -> Tensor:
    """[after, before]: Keys' kernel with a = -0.75 (PyTorch's), beyond the first and last value these hold."""
    centres = (torch.arange(after) + 0.5) / scale - 0.5
    first = centres.floor()
    share = centres - first
    places, matrix = torch.arange(before), torch.zeros(1)
    for tap in range(-1, 3):
        x = (share - tap).abs()
        near = (1.25 * x - 2.25) * x * x + 1
        far = -0.75 * (((x - 5) * x + 8) * x - 4)
        weight = near if tap in (0, 1) else far
        index = (first + tap).clamp(0, before - 1).long()
        matrix = matrix + torch.where(places == index[:, None], weight[:, None], 0.0)
    return matrix
