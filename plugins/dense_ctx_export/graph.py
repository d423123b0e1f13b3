"""The graphs: normalised image, backbone, decoder, head, with all that depends on the size given from outside.

A graph of any size takes an image whose sides are multiples of the stride, and index tables and matrices that
`dense_ctx_runtime.geometry` computes: arithmetic on symbolic sizes takes PyTorch's exporter minutes. A graph of one
size holds these as constants, and pads and cuts by itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from dense_ctx_probes.guided_filter import colour_moments, local_functions, read_at
from dense_ctx_probes.targets import probabilities
from dense_ctx_runtime.geometry import Size, cell_inputs, resize_axis, step_of
from torch import Tensor, nn
from torch.nn import functional

from dense_ctx.interfaces import Features
from dense_ctx.model import DenseModel

from .heads import CellHead
from .paddings import constant_paddings

Outputs = tuple[Tensor, ...]
Dims = Mapping[str, tuple[str | int, ...]]  # of each input: letters are sizes that vary


class Graph(nn.Module):
    """A model's graph of any size; `forward` takes the inputs of `example` in their order.

    Args:
        model: a copy: its convolutions' paddings become constants.
        head: scores of pixels; None: the features themselves.

    Attributes:
        names: of the outputs; there may be fewer. decodes_at_size: it decodes at a size that its inputs tell.
    """

    names: tuple[str, ...] = ("pixels", "patches", "cls")
    decodes_at_size = False

    def __init__(self, model: DenseModel, head: nn.Module | None = None) -> None:
        super().__init__()
        constant_paddings(model.backbone)
        self.backbone, self.decoder, self.head, self.stride = model.backbone, model.decoder, head, model.backbone.stride
        self.register_buffer("mean", torch.tensor(model.backbone.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(model.backbone.std)[:, None, None])

    def encode(self, image: Tensor) -> tuple[Features, Tensor]:
        """The backbone's features of [1, 3, H, W] in [0, 1], and its normalised input."""
        normalised = (image - self.get_buffer("mean")) / self.get_buffer("std")
        return self.backbone(normalised), normalised

    def outputs(self, pixels: Tensor, features: Features) -> Outputs:
        """`pixels`, `patches`, and of features `cls` where there is one."""
        cls = () if features.cls is None or self.head is not None else (features.cls,)
        return (pixels, features.maps[-1], *cls)

    def example(self, size: Size) -> dict[str, Tensor]:
        """Inputs for an image of `size`, by name."""
        return {"image": torch.rand(1, 3, *_padded(size, self.stride))}

    def dims(self) -> Dims:
        """What varies of each input's shape: a letter for its size, "32*h" for multiples."""
        return {"image": (1, 3, f"{self.stride}*h", f"{self.stride}*w")}


class FeatureGraph(Graph):
    """Pixel features, or a head that reads one pixel at a time."""

    def forward(self, image: Tensor) -> Outputs:
        """[1, 3, H, W] to pixels [1, D or K, H, W] and the rest of `outputs`."""
        features, normalised = self.encode(image)
        pixels = self.decoder(features, normalised, (image.shape[-2], image.shape[-1]))
        return self.outputs(pixels if self.head is None else self.head(pixels), features)


class CellGraph(Graph):
    """A head that reads means over cells of the image, its scores enlarged to the image."""

    head: CellHead

    def __init__(self, model: DenseModel, head: CellHead) -> None:
        super().__init__(model, head)

    def forward(
        self, image: Tensor, rows: Tensor, rows_shares: Tensor, rows_out: Tensor, columns: Tensor,
        columns_shares: Tensor, columns_out: Tensor,
    ) -> Outputs:  # fmt: skip
        """As `geometry.cell_inputs` has them: rows [h, s] of each cell, shares [h, s], rows_out [H, h]; columns."""
        features, grid = self.scores(image, rows, rows_shares, columns, columns_shares)
        large = torch.matmul(torch.matmul(rows_out, grid), columns_out.T)
        return self.outputs(self.head.finish(large), features)

    def scores(
        self, image: Tensor, rows: Tensor, rows_shares: Tensor, columns: Tensor, columns_shares: Tensor
    ) -> tuple[Features, Tensor]:
        """The backbone's features, and the head's scores of cells [1, K, h, w]."""
        features, normalised = self.encode(image)
        pixels = self.decoder(features, normalised, (image.shape[-2], image.shape[-1]))
        cells = (pixels[:, :, rows] * rows_shares[:, :, None]).sum(3)
        cells = (cells[:, :, :, columns] * columns_shares).sum(4)
        height, width = cells.shape[-2:]
        scores = self.head(cells[0].permute(1, 2, 0).reshape(height * width, cells.shape[1]))
        return features, scores.reshape(height, width, scores.shape[-1]).permute(2, 0, 1)[None]

    def example(self, size: Size) -> dict[str, Tensor]:
        """Inputs for an image of `size`, by name."""
        inputs = super().example(size)
        step = step_of(size, self.head.cells, self.head.stride)
        whole = (inputs["image"].shape[-2], inputs["image"].shape[-1])
        arrays = cell_inputs(size, whole, step, self.head.radius)
        return inputs | {name: torch.from_numpy(array) for name, array in arrays.items()}

    def dims(self) -> Dims:
        """As of a graph of features, with the numbers of cells and their sides."""
        # of a head that reads four pixels a cell, two on each side
        down, right = ("s", "t") if self.head.radius is None else (2, 2)
        return {
            **super().dims(), "rows": ("n", down), "rows_shares": ("n", down), "rows_out": ("y", "n"),
            "columns": ("m", right), "columns_shares": ("m", right), "columns_out": ("x", "m"),
        }  # fmt: skip


class FilterGraph(CellGraph):
    """Of a head whose scores a guided filter refines at the edges of the image."""

    def forward(  # type: ignore[override]
        self, image: Tensor, rows: Tensor, rows_shares: Tensor, rows_guide: Tensor, rows_lift: Tensor,
        rows_box: Tensor, rows_out: Tensor, columns: Tensor, columns_shares: Tensor, columns_guide: Tensor,
        columns_lift: Tensor, columns_box: Tensor, columns_out: Tensor,
    ) -> Outputs:  # fmt: skip
        """As `geometry.cell_inputs` has them."""
        features, grid = self.scores(image, rows, rows_shares, columns, columns_shares)

        def means(x: Tensor) -> Tensor:
            return torch.matmul(torch.matmul(rows_box, x), columns_box.T)

        guide = torch.matmul(torch.matmul(rows_guide, image), columns_guide.T)
        scores = torch.matmul(torch.matmul(rows_lift, grid), columns_lift.T)
        colours = colour_moments(guide, means, self.head.epsilon)
        coefficients = local_functions(colours, scores[:, :-1], means)
        coefficients = torch.matmul(torch.matmul(rows_out, coefficients), columns_out.T)
        pixels = read_at(coefficients, image)
        return self.outputs(probabilities(torch.cat([pixels, 1 - pixels.sum(1, keepdim=True)], 1)), features)

    def dims(self) -> Dims:
        """As of a graph of cells, with the half cells of the filter."""
        sides: dict[str, tuple[str | int, ...]] = {}
        for name, cells, halves, side in (("rows", "n", "i", "h"), ("columns", "m", "j", "w")):
            whole = f"{self.stride}*{side}"
            sides |= {
                f"{name}_guide": (halves, whole), f"{name}_lift": (halves, cells), f"{name}_box": (halves, halves),
                f"{name}_out": (whole, halves),
            }  # fmt: skip
        dims = {**super().dims(), **sides}
        return {name: dims[name] for name in self.example((self.stride, self.stride))}


class ResizedGraph(Graph):
    """A trained head, which sees images at one size, whatever theirs is."""

    def __init__(self, model: DenseModel, head: nn.Module, image_size: Size, output_size: Size) -> None:
        super().__init__(model, head)
        self.image_size, self.output_size = image_size, output_size

    def forward(
        self, image: Tensor, rows_in: Tensor, columns_in: Tensor, rows_out: Tensor, columns_out: Tensor
    ) -> Outputs:
        """Matrices to the image size and from the output size: rows_in [h, H], rows_out [H, h]; columns likewise."""
        small = torch.matmul(torch.matmul(rows_in, image), columns_in.T).clamp(0, 1)
        features, normalised = self.encode(_pad(small, self.stride))
        (height, width), full = self.output_size, _padded(self.image_size, self.stride)
        size = [max(o, round(o * f / i)) for o, f, i in zip(self.output_size, full, self.image_size, strict=True)]
        channels = self.decoder(features, normalised, (size[0], size[1]))[:, :, :height, :width]
        large = torch.matmul(torch.matmul(rows_out, channels), columns_out.T)
        return self.outputs(self.head(large) if self.head is not None else large, features)

    def example(self, size: Size) -> dict[str, Tensor]:
        """Inputs for an image of `size`, by name."""
        inputs = {"image": torch.rand(1, 3, *size)}
        for name, to in (("in", self.image_size), ("out", self.output_size)):
            for side, own, other in zip(("rows", "columns"), size, to, strict=True):
                pair = (own, other) if name == "in" else (other, own)
                inputs[f"{side}_{name}"] = torch.from_numpy(resize_axis(*pair))
        return {key: inputs[key] for key in ("image", "rows_in", "columns_in", "rows_out", "columns_out")}

    def dims(self) -> Dims:
        """The image's sides, which the matrices share."""
        (h, w), (y, x) = self.image_size, self.output_size
        return {"image": (1, 3, "h", "w"), "rows_in": (h, "h"), "columns_in": (w, "w"), "rows_out": ("h", y),
                "columns_out": ("w", x)}  # fmt: skip


class OneSize(nn.Module):
    """A graph for images of one size: the only input is the image, as it comes."""

    def __init__(self, graph: Graph, size: Size) -> None:
        super().__init__()
        self.whole, self.size = graph, size  # a GraphModule has a `graph` of its own
        inputs = graph.example(size)
        self.names = [name for name in inputs if name != "image"]
        for name in self.names:
            self.register_buffer(f"input_{name}", inputs[name])
        self.pads = tuple(inputs["image"].shape[-2:]) != tuple(size)

    def forward(self, image: Tensor) -> Outputs:
        """[1, 3, H, W] to the graph's outputs, cut to the image."""
        image = _pad(image, self.whole.stride) if self.pads else image
        pixels, *others = self.whole(image, *(self.get_buffer(f"input_{name}") for name in self.names))
        return (pixels[:, :, : self.size[0], : self.size[1]], *others)


def _padded(size: Size, stride: int) -> Size:
    return -(-size[0] // stride) * stride, -(-size[1] // stride) * stride


def _pad(image: Tensor, stride: int) -> Tensor:
    height, width = image.shape[-2:]
    extra = (0, -width % stride, 0, -height % stride)
    return functional.pad(image, extra, mode="replicate") if any(extra) else image
