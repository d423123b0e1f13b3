"""MAXA: dense predictions at any coordinates from a frozen backbone's features, by masked cross-attention.

The method of "Masked Cross-Attention Adapters Enable the Characterization of Dense Features": queries are fixed
positions, one for each 8 x 8 pixels; two layers of cross-attention read the features, the first near the query (a
Gaussian of learned width per head), the second everywhere; a small network makes the pixels.

That network looks at neighbouring queries. So that a pixel depends on its coordinates alone, and not on what else is
asked for, neighbours always are where they were in training: the adapter is a function on the lattice of its training
size (28 x 28 queries for 224 x 224 pixels), whose border is the image's, and a part of it is computed with the
neighbours it needs. Between the lattice's pixels the function is linear; `density` k computes it on k x k lattices,
shifted by parts of a pixel, that is at k times the resolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Decoder, Features, Size
from dense_ctx.persistence.file_args import CHANNELS, LAYERS

from .attention import CrossAttention, GaussianBias, Sigma
from .maps import joined, layer_indices
from .positions import cell_centres, encode
from .sampling import axis, pixel_axis, sample_grid, sample_points
from .upscale import FACTOR, HALO, Upscale

Read = tuple[Tensor, Tensor]


class Maxa(Decoder):
    """Masked cross-attention adapter.

    Args:
        dims, strides: the backbone's.
        dim: D_out, output channels.
        width: D, of the attention (paper: 32; ablation: 16).
        heads: of the attention.
        depth: attention layers; 1 is the paper's ablation.
        sigma: "head", "shared" (ablation: one sigma) or "none" (ablation: no Gaussian).
        cnn_width: D_CNN; default max(D / 4, D_out); the paper's COCO-Stuff rows have 64.
        layers: maps of the backbone to read, joined on the finest grid of them; the paper: the last. None: all.
        size: (H, W) of the outputs in training, multiples of 8; queries lie 8 of its pixels apart.
        grid: (h, w) of the features in training; default `size` over the finest stride. On another grid the 8 numbers
            a cell that the adapter learns are interpolated.
        density: lattices an axis at which predictions are computed; between their pixels they are interpolated. May be
            changed at any time: what is predicted at the pixels of `size` does not depend on it.

    Raises:
        InputError: an argument out of its range.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {
        "dim": CHANNELS, "width": CHANNELS, "heads": range(1, 129), "depth": range(1, 3), "cnn_width": CHANNELS,
        "sigma": frozenset(("head", "shared", "none")), "layers": LAYERS, "size": [range(8, 4097)],
        "grid": [range(1, 1025)], "density": range(1, 65),
    }  # fmt: skip
    layers: tuple[int, ...]

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        dim: int = 32,
        width: int = 32,
        heads: int = 8,
        depth: int = 2,
        sigma: Sigma = "head",
        cnn_width: int | None = None,
        layers: Sequence[int] | None = (-1,),
        size: Size = (224, 224),
        grid: Size | None = None,
        density: int = 1,
    ) -> None:
        super().__init__()
        if dim < 1:
            raise InputError(f"dim={dim}: the adapter needs at least one output channel (D_out)")
        if heads < 1 or width < 4 or width % heads or depth not in (1, 2):
            raise InputError(
                f"width={width}, heads={heads}, depth={depth}: expected a width of at least 4 that the heads divide, "
                "and one or two layers"
            )
        if sigma not in ("head", "shared", "none"):
            raise InputError(f"sigma={sigma!r}: expected 'head', 'shared' or 'none'")
        if len(size) != 2 or min(size) < FACTOR or any(side % FACTOR for side in size):
            raise InputError(f"size={size} is (H, W), each a multiple of {FACTOR}: a query makes 8 x 8 pixels")
        if cnn_width is not None and cnn_width < 1:
            raise InputError(f"cnn_width={cnn_width}: expected at least 1")
        self.dim, self.layers, self.size = dim, layer_indices(layers, len(dims)), (size[0], size[1])
        self.density = density
        self._checked_density()
        channels = sum(dims[layer] for layer in self.layers)
        finest = min(strides[layer] for layer in self.layers)
        grid = (max(1, size[0] // finest), max(1, size[1] // finest)) if grid is None else (grid[0], grid[1])
        if min(grid) < 1:
            raise InputError(f"grid={grid} is (h, w), each at least 1")
        bias = GaussianBias(heads, grid, sigma)
        self.attention = nn.ModuleList(
            CrossAttention(channels, width, heads, level == 0, bias if level == 0 else None) for level in range(depth)
        )
        self.upscale = Upscale(width, cnn_width or max(width // 4, dim), dim)

    @classmethod
    def size_args(cls, size: Size, image_size: Size, strides: Sequence[int], args: Mapping[str, Any]) -> dict[str, Any]:
        """`size`, and the `grid` of the finest map that is read."""
        finest = min(strides[layer] for layer in layer_indices(args.get("layers", (-1,)), len(strides)))
        return {"size": list(size), "grid": [-(-side // finest) for side in image_size]}

    def forward(self, features: Features, images: Tensor, size: Size) -> Tensor:
        """Predict on the pixels of an output of any size: [B, dim, *size]."""
        return self.window(features, size, (0, size[0]), (0, size[1]))

    def window(self, features: Features, size: Size, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
        """Predict a part of an output: what `forward(..., size)[:, :, rows[0]:rows[1], columns[0]:columns[1]]` is.

        Raises:
            InputError: the part is empty or reaches outside.
        """
        for name, (start, stop), side in (("rows", rows, size[0]), ("columns", columns, size[1])):
            if not 0 <= start < stop <= side:
                raise InputError(f"{name}={(start, stop)}: expected 0 <= start < stop <= {side}, for size={size}")
        density = self._checked_density()
        # an index is a number, also where a graph that is compiled has a symbol
        down, right = (
            pixel_axis(index(side), index(start), index(stop), lattice, density)
            for side, (start, stop), lattice in zip(size, (rows, columns), self.size, strict=True)
        )
        return sample_grid(self._field(features, (down.start, down.stop), (right.start, right.stop)), down, right)

    def points(self, features: Features, coordinates: Tensor) -> Tensor:
        """Predict at coordinates [N, 2], (y, x) from 0 to 1 over the image: [B, dim, N].

        Pixel (i, j) of an output of size (H, W) is at ((i + 0.5) / H, (j + 0.5) / W).

        Raises:
            InputError: another shape, no points, or points outside the image.
        """
        if coordinates.ndim != 2 or coordinates.shape[1] != 2 or not len(coordinates):
            raise InputError(f"coordinates are [N, 2], (y, x), with N at least 1; got {list(coordinates.shape)}")
        where = coordinates.detach().double().cpu()
        if not bool(((where >= 0) & (where <= 1)).all()):  # NaN fails too
            raise InputError("coordinates lie between 0 and 1 over the image, (y, x); divide pixels by (H, W)")
        ys, xs, density = where[:, 0].numpy(), where[:, 1].numpy(), self._checked_density()
        down, right = axis(ys, self.size[0], density), axis(xs, self.size[1], density)
        return sample_points(self._field(features, (down.start, down.stop), (right.start, right.stop)), down, right)

    def _checked_density(self) -> int:
        if not isinstance(self.density, int) or self.density < 1:
            raise InputError(f"density={self.density}: expected a whole number of at least 1")
        return self.density

    # ------------------------------------------------------------------ the function on the lattice

    def _field(self, features: Features, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
        """Pixels rows[0]..rows[1]-1, columns[0]..columns[1]-1 of the lattices laid into one another: [B, dim, r, c]."""
        tokens, grid = joined(features, self.layers)
        cells = cell_centres(grid, tokens.device)
        encoded = encode(cells)
        whitened = functional.layer_norm(tokens, tokens.shape[-1:])
        read = [layer.read(whitened, encoded) for layer in self.attention]  # type: ignore[operator]
        k = self.density
        if k == 1:
            return self._lattice(read, cells, grid, (0.0, 0.0), rows, columns)
        out = tokens.new_empty(len(tokens), self.dim, rows[1] - rows[0], columns[1] - columns[0])
        for a in range(k):
            top, bottom = -((a - rows[0]) // k), -((a - rows[1]) // k)
            for b in range(k):
                left, right = -((b - columns[0]) // k), -((b - columns[1]) // k)
                if top < bottom and left < right:
                    part = self._lattice(read, cells, grid, (a / k, b / k), (top, bottom), (left, right))
                    out[:, :, top * k + a - rows[0] :: k, left * k + b - columns[0] :: k] = part
        return out

    def _lattice(
        self,
        read: list[Read],
        cells: Tensor,
        grid: Size,
        shift: tuple[float, float],
        rows: tuple[int, int],
        columns: tuple[int, int],
    ) -> Tensor:
        """Pixels of one lattice, shifted by parts of a pixel."""
        centres, cut = [], []
        for (start, stop), side, offset in zip((rows, columns), self.size, shift, strict=True):
            first = max(0, start // FACTOR - HALO)
            last = min(side // FACTOR, (stop - 1) // FACTOR + 1 + HALO)
            blocks = torch.arange(first, last, device=cells.device)
            centres.append((blocks * FACTOR + FACTOR / 2 + offset) / side)
            cut.append(slice(start - first * FACTOR, stop - first * FACTOR))
        points = torch.cartesian_prod(centres[0], centres[1])
        x = encode(points).to(read[0][0].dtype)[None]
        for layer, maps in zip(self.attention, read, strict=True):
            x = layer(x, points, cells, grid, maps)
        x = rearrange(x, "b (h w) c -> b c h w", h=len(centres[0]))
        pixels: Tensor = self.upscale(x)
        return pixels[:, :, cut[0], cut[1]]
