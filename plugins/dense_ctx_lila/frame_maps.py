"""A cue's maps of two whole frames, brought to one scale, and where they can be relied on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dense_ctx.interfaces import Size

from .cues.base import Cue, normalize_cues
from .cues.flow import consistency

Maps = dict[str, tuple[Tensor, Tensor]]  # by name, of context and query: [B, c, h, w]


def confidence_of(name: str) -> str:
    """The key of where a cue counts, beside that of its maps."""
    return f"{name}/confidence"


def cue_maps(name: str, cue: Cue, context: Tensor, query: Tensor, check: bool) -> Maps:
    """A cue's maps of whole frames [B, 3, H, W], as `standardized_maps` has them."""
    flow = range(0, cue.channels, 2) if cue.unit == "pixels" else ()
    first, second = (maps.float() for maps in cue(context, query))  # sums over frames are not bfloat16's
    return standardized_maps(name, first, second, flow, (context.shape[-2], context.shape[-1]), check)


def standardized_maps(name: str, context: Tensor, query: Tensor, flow: Sequence[int], size: Size, check: bool) -> Maps:
    """Maps brought to one scale by the context's statistics; with `check`, of flow, also where it is consistent."""
    maps = {name: normalize_cues(context, query, flow=flow, size=size)}
    if check and flow:
        each = [consistency(context[:, i : i + 2], query[:, i : i + 2]) for i in flow]
        maps[confidence_of(name)] = tuple(torch.stack(one).amin(0) for one in zip(*each, strict=True))  # type: ignore[assignment]
    return maps
