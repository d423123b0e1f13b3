"""Official checkpoints -> timm's names, by timm's converters and ours; tensors without effect are listed in `unused`.

DINOv2: chunked blocks are joined, registers and the class token's position are folded as timm keeps them. DINOv3: see
`convert_dinov3`. transformers: see `convert_hf`, `convert_sam`. A tensor that is neither used nor listed is refused by
name.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys

from torch import nn

from dense_ctx.errors import WeightsError

from .convert_dinov3 import checked_dinov3, is_dinov3
from .convert_hf import hf_to_timm, is_hf
from .convert_sam import complete_sam2, is_hf_sam, sam_to_timm
from .traced import trace
from .unused import is_unused
from .weights import State, renamed

_CHUNKED = re.compile(r"^blocks\.\d+\.(\d+)\.(?=norm|attn|mlp|ls)")
_WRITTEN = (  # what transformers makes of official names when it saves TIPSv2 and RADIO
    (re.compile(r"^((?:vision_encoder\.)?blocks\.\d+\.mlp)\.c_fc\."), r"\1.fc1."),
    (re.compile(r"^((?:vision_encoder\.)?blocks\.\d+\.mlp)\.c_proj\."), r"\1.fc2."),
    (re.compile(r"^(radio_model\.model\.blocks\.\d+)\.layer_scale(\d)\.lambda1$"), r"\1.ls\2.grandma"),
)


def to_timm(state: State, net: nn.Module) -> State:
    """Map the tensors of an official or timm checkpoint onto `net`'s names; loading is strict afterwards.

    Raises:
        WeightsError: the checkpoint has another patch size, timm's own converter cannot read it, or a tensor would be
            lost that is not known to be unused.
    """
    own = net.state_dict()
    if is_hf(state):
        state = hf_to_timm(state, net)
    elif is_hf_sam(state):
        state = sam_to_timm(state)
    state = complete_sam2(state, net)
    # DINOv2 trained with block chunks: blocks.2.17.attn... -> blocks.17.attn...
    state = renamed(state, lambda key: _CHUNKED.sub(r"blocks.\1.", key))
    for pattern, name in _WRITTEN:
        state = renamed(state, functools.partial(pattern.sub, name))
    if "blocks.0.ls1.gamma" not in own:  # RADIO's scales of one, which change nothing
        state = {key: v for key, v in state.items() if not (key.endswith(".grandma") and bool((v == 1).all()))}
    if any(key.startswith("decoder_") for key in state):  # MAE with its decoder, whose mask token is not DINOv2's
        state = {k: v for k, v in state.items() if not k.startswith("decoder_") and k != "mask_token"}
    _same_patches(state, own)
    if is_dinov3(state):
        state = checked_dinov3(state, net)
    if all(key in state and state[key].shape == value.shape for key, value in own.items()):
        return {key: value for key, value in state.items() if key in own or not is_unused(key)}
    modules = [sys.modules[part.__module__] for part in type(net).__mro__]
    family = next((module.checkpoint_filter_fn for module in modules if hasattr(module, "checkpoint_filter_fn")), None)
    if family is None:
        return {key: value for key, value in state.items() if key in own or not is_unused(key)}
    more = (net,) if len(inspect.signature(family).parameters) > 1 else ()
    try:
        converted, sources = trace(lambda given: dict(family(dict(given), *more)), state)
    except Exception as error:
        name = type(net).__name__
        raise WeightsError(
            f"These weights are not ones timm can bring to {name} ({type(error).__name__}: {error}). "
            f"Their first tensors are {', '.join(list(state)[:4])}; {name} has {', '.join(list(own)[:4])}"
        ) from error
    lost = [key for key in state if not is_unused(key) and not any(key in names for names in sources.values())]
    if lost:
        raise WeightsError(
            f"timm's converter would drop {len(lost)} tensors that are not known to be unused: {', '.join(lost[:4])}. "
            "Weights of another network, or of several? prefix=PREFIX takes the tensors whose names begin so"
        )
    return {key: value for key, value in converted.items()
            if key in own or not (is_unused(key) or all(map(is_unused, sources[key])))}  # fmt: skip


def _same_patches(state: State, own: State) -> None:
    """Refuse another patch size: timm would silently resize the patch projection, which changes the features."""
    for key in ("patch_embed.proj.weight", "visual.conv1.weight"):
        theirs, ours = state.get(key), own.get("patch_embed.proj.weight")
        if theirs is not None and ours is not None and theirs.ndim == 4 and theirs.shape[2:] != ours.shape[2:]:
            raise WeightsError(
                f"The weights have patches of {list(theirs.shape[2:])} pixels ({key}), the network of "
                f"{list(ours.shape[2:])}: choose the backbone they were trained as"
            )
