"""Official DINOv3 checkpoints: what timm's converter silently drops, such as the attention's biases."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dense_ctx.errors import WeightsError

from .weights import State

_RTOL = 1e-2  # of rotary periods, which some files store in bfloat16


def is_dinov3(state: State) -> bool:
    """Whether the tensors carry the official names."""
    return "storage_tokens" in state and "blocks.0.attn.qkv.weight" in state


def checked_dinov3(state: State, net: nn.Module) -> State:
    """The tensors for timm's converter, with each mask applied to its bias (keys have none: their part must be zero).

    Where `net` takes no biases, those of zero are left out, which changes nothing.

    Raises:
        WeightsError: a bias that `net` has no place for, a mask that is not 0 and 1, or other rotary periods.
    """
    own = net.state_dict()
    result = {key: value for key, value in state.items() if not key.endswith("qkv.bias_mask")}
    for key in [key for key in state if key.endswith("attn.qkv.bias")]:
        mask = state.get(f"{key}_mask")
        if mask is not None and not bool(((mask == 0) | (mask == 1)).all()):
            raise WeightsError(f"{key}_mask is not 0 and 1 throughout: these are not DINOv3's trained weights")
        bias = result.pop(key) if mask is None else result.pop(key) * mask
        if bool(bias.chunk(3)[1].any()):
            raise WeightsError(f"{key} has a part for the keys that is not zero, which DINOv3 does not have")
        if key.replace("qkv.bias", "q_bias") in own:
            result[key] = bias
        elif bool(bias.any()):
            raise WeightsError(
                f"{key} is not zero, and this network takes none: use "
                '"timm:..._dinov3_qkvb", which has them, such as timm:vit_small_patch16_dinov3_qkvb'
            )
    periods, rope = state.get("rope_embed.periods"), getattr(net, "rope", None)
    reference: Any = getattr(rope, "periods", None)
    if periods is not None and reference is not None and not _equal(periods.float(), reference.float()):
        raise WeightsError("rope_embed.periods are not those of this network: another temperature or head width")
    return result


def _equal(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.allclose(one, two, rtol=_RTOL, atol=0)
