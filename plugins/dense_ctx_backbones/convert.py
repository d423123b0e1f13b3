"""Official checkpoints -> timm's names. What is left out is left out knowingly, and named here.

DINOv2: chunked blocks are joined, mask_token (training only) goes, registers and the class token's position are folded
as timm keeps them. DINO: the projection head. MAE: the decoder and its mask token. CLIP (OpenAI, open_clip): the text
tower and the projection. timm's own files: the classifier. SAM: prompt encoder and mask decoder. transformers: see
`convert_hf`.
"""

from __future__ import annotations

import inspect
import re
import sys

from torch import nn

from dense_ctx.errors import WeightsError

from .convert_hf import hf_to_timm, is_hf
from .weights import State

_CHUNKED = re.compile(r"^blocks\.\d+\.(\d+)\.(?=norm|attn|mlp|ls)")
_LEFT_OUT = re.compile(
    r"(module\.)?((head|fc|classifier|head_dist|last_layer|dino_head|ibot_head)\.|decoder_|prompt_encoder\.|mask_decoder\."
    r"|attn_pool\.|fc_norm\.|neck\.|conv_head\.|rope_embed\.periods$|rope\.periods$|mask_token$)"
)


def to_timm(state: State, net: nn.Module) -> State:
    """Map the tensors of an official or timm checkpoint onto `net`'s names; loading is strict afterwards.

    Raises:
        WeightsError: the checkpoint has another patch size, or timm's own converter cannot read it.
    """
    own = net.state_dict()
    if is_hf(state):
        state = hf_to_timm(state, net)
    # DINOv2 trained with block chunks: blocks.2.17.attn... -> blocks.17.attn...
    state = {_CHUNKED.sub(r"blocks.\1.", key): value for key, value in state.items()}
    if any(key.startswith("decoder_") for key in state):  # MAE with its decoder, whose mask token is not DINOv2's
        state = {k: v for k, v in state.items() if not k.startswith("decoder_") and k != "mask_token"}
    _same_patches(state, own)
    modules = [sys.modules[part.__module__] for part in type(net).__mro__]
    family = next((module.checkpoint_filter_fn for module in modules if hasattr(module, "checkpoint_filter_fn")), None)
    fits = all(key in state and state[key].shape == value.shape for key, value in own.items())
    if family is not None and not fits:
        takes_net = len(inspect.signature(family).parameters) > 1
        try:
            state = dict(family(dict(state), net) if takes_net else family(dict(state)))
        except Exception as error:
            name = type(net).__name__
            raise WeightsError(
                f"These weights are not ones timm can bring to {name} ({type(error).__name__}: {error}). "
                f"Their first tensors are {', '.join(list(state)[:4])}; {name} has {', '.join(list(own)[:4])}"
            ) from error
    return {key: value for key, value in state.items() if key in own or not _LEFT_OUT.match(key)}


def _same_patches(state: State, own: State) -> None:
    """Refuse another patch size: timm would resize the patch projection, and give other features without a word."""
    for key in ("patch_embed.proj.weight", "visual.conv1.weight"):
        given, wanted = state.get(key), own.get("patch_embed.proj.weight")
        if given is not None and wanted is not None and given.ndim == 4 and given.shape[2:] != wanted.shape[2:]:
            raise WeightsError(
                f"The weights have patches of {list(given.shape[2:])} pixels ({key}), the network of "
                f"{list(wanted.shape[2:])}: choose the backbone they were trained as"
            )
