"""Synthetic motion: a pair of frames whose flow and order in depth are known, made of one frame and of parts of others.

Optical flow networks are trained so (Dosovitskiy et al. 2015, arXiv 1504.06852, section 4): a background under the
motion of a camera, objects in front of it that each move in a way of their own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.interfaces import Size

LAYERS = "layers"  # the cue of the order in depth
OBJECTS = (1, 3)  # pasted into a pair, fewest and most
_ALPHA = 128  # cells of an outline, along a side


@dataclass(frozen=True)
class Layer:
    """A picture that moves.

    texture: [3, H, W]. alpha: its opacity on the square from -1 to 1, [n, n]; None: opaque everywhere.
    picture: affine [2, 3] from the layer's own coordinates to the texture's.
    poses: from the layer's own coordinates to the frame's, at the context's and at the query's time.
    """

    texture: Tensor
    alpha: Tensor | None
    picture: Tensor
    poses: tuple[Tensor, Tensor]


class Scene:
    """A background and objects in front of it, at two times.

    Coordinates have their origin in the middle of a frame, and half its short side is 1. The camera turns by up to 5
    degrees, scales by up to 5 % and moves by up to 0.1. An object moves in the frame by a motion of its own, without
    the camera's: up to 15 degrees around its middle, 10 % and 0.25.
    An object is a random outline with the pixels of another frame.

    Args:
        frame: the background, [3, H, W] in [0, 1].
        others: the frames that the objects are cut out of, of any size, farthest first.
        generator: decides everything else.
    """

    def __init__(self, frame: Tensor, others: Sequence[Tensor], generator: random.Random) -> None:
        camera = _affine(generator, 5, 0.05, 0.1)
        still = torch.eye(2, 3, dtype=torch.float32)
        self.layers = [Layer(frame, None, 0.9 * still, (still, camera))]  # a little larger, so that its border is out
        extent = _extent((frame.shape[-2], frame.shape[-1]))
        for other in others:
            radius, angle = generator.uniform(0.25, 0.6), generator.uniform(-180, 180)
            centre = [generator.uniform(-0.8, 0.8) * float(side) for side in extent]
            first = _affine_of(angle, radius, centre)
            second = _after(
                _affine_of(0, 1, centre), _after(_affine(generator, 15, 0.1, 0.25), _affine_of(angle, radius))
            )
            reach = [max(0.0, float(side) - radius) for side in _extent((other.shape[-2], other.shape[-1]))]
            cut = _affine_of(angle, radius, [generator.uniform(-side, side) for side in reach])
            self.layers.append(Layer(other, _outline(generator), cut, (first, second)))

    def frames(self, size: Size) -> Tensor:
        """The context and the query, [2, 3, H, W]."""
        pictures = []
        for time in range(2):
            picture = torch.zeros(3, *size)
            for layer in self.layers:
                own = _apply(_inverse(layer.poses[time]), _coordinates(size))
                texture = layer.texture.float()
                extent = _extent((texture.shape[-2], texture.shape[-1]))
                colours = _sampled(texture, _apply(layer.picture, own) / extent, "reflection")
                picture = torch.lerp(picture, colours, _opacity(layer, own))
            pictures.append(picture)
        return torch.stack(pictures).clamp(0, 1)

    def truth(self, size: Size) -> tuple[Tensor, Tensor]:
        """Of the context and of the query: flow [2, 2, H, W] in pixels and signs as `FlowCue`; order [2, 1, H, W].

        Each pixel has the flow of the layer in front, hidden at the other time or not. The background's order is 0.
        """
        flows, orders = [], []
        for time, sign in enumerate((1, -1)):
            coordinates = _coordinates(size)
            flow, order = torch.zeros(2, *size, dtype=coordinates.dtype), torch.zeros(1, *size)
            for number, layer in enumerate(self.layers):
                own = _apply(_inverse(layer.poses[time]), coordinates)
                front = _opacity(layer, own) > 0.5
                motion = (_apply(layer.poses[1 - time], own) - coordinates).movedim(-1, 0)
                flow = torch.where(front, motion, flow)
                order = torch.where(front, float(number), order)
            flows.append(sign * flow * min(size) / 2)
            orders.append(order)
        return torch.stack(flows).float(), torch.stack(orders)


def _extent(size: Size) -> Tensor:
    """Half the width and half the height."""
    height, width = size
    return torch.tensor([width, height], dtype=torch.float32) / min(size)


def _coordinates(size: Size) -> Tensor:
    """Of the pixels' centres, [H, W, 2]."""
    height, width = size
    x = (2 * torch.arange(width, dtype=torch.float32) + 1 - width) / min(size)
    y = (2 * torch.arange(height, dtype=torch.float32) + 1 - height) / min(size)
    return torch.stack(torch.broadcast_tensors(x, y[:, None]), -1)


def _affine(generator: random.Random, angle: float, scale: float, shift: float) -> Tensor:
    """A random affine within these bounds."""
    turn, size = generator.uniform(-angle, angle), 1 + generator.uniform(-scale, scale)
    return _affine_of(turn, size, [generator.uniform(-shift, shift) for _ in range(2)])


def _affine_of(angle: float, scale: float, shift: Sequence[float] = (0, 0)) -> Tensor:
    radians = torch.deg2rad(torch.tensor(angle, dtype=torch.float32))
    cosine, sine = scale * float(radians.cos()), scale * float(radians.sin())
    return torch.tensor([[cosine, -sine, shift[0]], [sine, cosine, shift[1]]], dtype=torch.float32)


def _after(second: Tensor, first: Tensor) -> Tensor:
    """The affine that applies `first`, and then `second`."""
    return torch.cat([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2:] + second[:, 2:]], 1)


def _inverse(affine: Tensor) -> Tensor:
    linear = torch.linalg.inv(affine[:, :2])
    return torch.cat([linear, -linear @ affine[:, 2:]], 1)


def _apply(affine: Tensor, points: Tensor) -> Tensor:
    return points @ affine[:, :2].mT + affine[:, 2]


def _outline(generator: random.Random) -> Tensor:
    """A random smooth region within the square, [n, n] of opacities with a soft border."""
    draw = torch.Generator().manual_seed(generator.getrandbits(32))
    noise = functional.interpolate(torch.rand(1, 1, 5, 5, generator=draw), (_ALPHA, _ALPHA), mode="bilinear")[0, 0]
    distance = _coordinates((_ALPHA, _ALPHA)).norm(dim=-1).float()
    return torch.sigmoid((1 - distance / 0.7 + 0.8 * (noise - 0.5)) * 60)


def _opacity(layer: Layer, own: Tensor) -> Tensor:
    """[1, H, W] at a layer's own coordinates [H, W, 2]."""
    if layer.alpha is None:
        return torch.ones(1, *own.shape[:2])
    return _sampled(layer.alpha[None], own, "zeros")


def _sampled(maps: Tensor, places: Tensor, padding: str) -> Tensor:
    """[C, H, W] of maps [C, h, w] at places [H, W, 2] from -1 to 1."""
    return functional.grid_sample(
        maps[None], places[None].to(maps.dtype), mode="bilinear", padding_mode=padding, align_corners=False
    )[0]
