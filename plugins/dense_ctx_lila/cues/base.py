"""Supervision cues: maps of two frames of a video, for objectives to learn from; and how they are normalised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dense_ctx.config import Part, parse_part
from dense_ctx.errors import ContractError, InputError
from dense_ctx.interfaces import Size


class Cue(nn.Module, ABC):
    """From frames to maps, frozen: always in evaluation mode, never with gradients.

    Attributes set by the subclass:
        channels: of each map.
        unit: of the values. "pixels": the channels are pairs (x, y) in pixels of the whole frame the cue was given.
        pair: whether a map depends on both frames. False: each map is computed from its own frame alone.
        meaning: one sentence: what a value says, and its sign.
        antisymmetric: of a pair cue: swapping the frames swaps the two maps and negates them (flow). A cache then
            stores one direction only.
        version: raise it when the values change; caches of another version are refused.
        source: where the weights came from, or None where there are none or they are random.
    """

    channels: int
    unit: str
    pair: bool
    meaning: str
    antisymmetric: bool = False
    version: ClassVar[int] = 1
    source: str | None = None

    @abstractmethod
    def forward(self, context: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Compute (context_map, query_map), each [B, channels, H, W], from frames [B, 3, H, W] in [0, 1]."""

    @torch.no_grad()
    def __call__(self, context: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """`forward`, without gradients, for frames that were checked.

        Raises:
            InputError: frames that are not two floating-point tensors [B, 3, H, W] of one shape.
            ContractError: maps of another shape than [B, channels, H, W].
        """
        for name, frames in (("context", context), ("query", query)):
            if frames.ndim != 4 or frames.shape[1] != 3 or 0 in frames.shape or not frames.is_floating_point():
                raise InputError(
                    f"{name} frames are [B, 3, H, W], floating point in [0, 1]; got {frames.dtype} {list(frames.shape)}"
                )
        if context.shape != query.shape:
            raise InputError(f"context is {list(context.shape)}, query {list(query.shape)}; expected one shape")
        maps: tuple[Tensor, Tensor] = super().__call__(context, query)
        shapes = [list(item.shape) for item in maps]
        if shapes != [[len(context), self.channels, *context.shape[2:]]] * 2:
            text = f"cue {type(self).__name__} gave maps {shapes} of frames {list(context.shape)}"
            raise ContractError("shapes", f"{text}; expected two of {self.channels} channels and the frames' size")
        return maps

    def train(self, mode: bool = True) -> Cue:
        """Stay in evaluation mode, whatever the model around it does."""
        return super().train(False)


def create_cue(name: str | Part, **args: Any) -> Cue:
    """Build a registered cue, frozen and in evaluation mode.

    Args:
        name: "flow:dis", or "NAME(key=value, ...)", or a Part.
        args: further arguments, above those of `name`.

    Raises:
        UnknownNameError: no such cue. MissingDependencyError: its package is not installed. WeightsError: its
            weights are unavailable.
    """
    from dense_ctx.plugins import registry

    part = parse_part(name)
    cue: Cue = registry().create("cue", part.name, **{**part.args, **args})
    return cue.requires_grad_(False).eval()


def normalize_cues(
    context: Tensor,
    query: Tensor,
    *,
    flow: Sequence[int] = (),
    size: Size | None = None,
    floor: float = 1e-3,
) -> tuple[Tensor, Tensor]:
    """Bring cues of different units to one scale, the same for both frames.

    The rule: flow is divided by the size of the whole frame, x by W and y by H. Then each channel of each sample has
    the context map's mean subtracted and is divided by the context map's standard deviation (biased; `floor` where it
    is smaller), in the context and in the query alike: what is linear between a feature and a cue in one frame stays
    so in the other. Pass maps of whole frames and crop afterwards, so that the statistics are the frame's.

    Args:
        context, query: cue maps [B, C, h, w]; the two may differ in h and w.
        flow: the indices of the x channels of flow in pixels; y is the channel after.
        size: (H, W) of the frame whose pixels flow counts; needed with `flow`.
        floor: smallest standard deviation divided by. For flow in frame widths 1e-3 is 0.4 px at 427: it keeps the
            noise of a clip that stands still from being blown up to unit variance.

    Raises:
        InputError: other shapes, a flow channel that is not there, flow without `size`, a floor not above 0.
    """
    if context.ndim != 4 or query.ndim != 4 or context.shape[:2] != query.shape[:2]:
        raise InputError(f"Cue maps are [B, C, h, w] of equal B and C; got {list(context.shape)}, {list(query.shape)}")
    if not floor > 0:
        raise InputError(f"floor={floor}: expected above 0")
    if flow:
        context, query = (_in_frames(maps, flow, size) for maps in (context, query))
    mean = context.mean((2, 3), keepdim=True)
    centred = context - mean
    # a few passes in the order of memory, whatever that is: std_mean takes long over channels that lie side by side
    scale = centred.square().mean((2, 3), keepdim=True).sqrt_().clamp_min_(floor).reciprocal_()
    return centred.mul_(scale), (query - mean).mul_(scale)


def _in_frames(maps: Tensor, flow: Sequence[int], size: Size | None) -> Tensor:
    """Flow in pixels to shares of the frame."""
    channels = maps.shape[1]
    if size is None or min(size) < 1:
        raise InputError(f"flow={list(flow)} needs size=(H, W) of the frame whose pixels it counts; got {size}")
    wrong = [index for index in flow if not 0 <= index < channels - 1]
    if wrong:
        raise InputError(f"flow={list(flow)}: {wrong} are no x channels with y after, among {channels} channels")
    scale = maps.new_ones(channels)
    for index in flow:
        scale[index], scale[index + 1] = size[1], size[0]
    return maps / scale[:, None, None]
