"""Image encoders of SAM and SAM 2 -> timm's names, from transformers' files and from SAM 2's own.

So a folder of facebook/sam-vit-base or facebook/sam2.1-hiera-tiny serves as timm's own file does. Tensors without
effect are listed in `unused`.
"""

from __future__ import annotations

import re

from torch import nn

from .weights import State, renamed

_TOWER = re.compile(r"^(vision_encoder\.)?(backbone\.)?")
_RENAMED = (
    (re.compile(r"^patch_embed\.projection\."), "patch_embed.proj."),
    (re.compile(r"^layers\.(?=\d)"), "blocks."),
    (re.compile(r"(?<=\d\.)layer_norm(?=[12]\.)"), "norm"),
    (re.compile(r"\.mlp\.(lin1|proj_in)\."), ".mlp.fc1."),
    (re.compile(r"\.mlp\.(lin2|proj_out)\."), ".mlp.fc2."),
)
_NECK = {
    "neck.conv1.": "neck.0.",
    "neck.layer_norm1.": "neck.1.",
    "neck.conv2.": "neck.2.",
    "neck.layer_norm2.": "neck.3.",
}


def is_hf_sam(state: State) -> bool:
    """Whether the tensors carry transformers' names for SAM or SAM 2."""
    return any(key.endswith("patch_embed.projection.weight") for key in state)


def sam_to_timm(state: State) -> State:
    """Map transformers' tensors onto timm's names; unknown names are kept."""
    return renamed(state, _timm_name)


def _timm_name(name: str) -> str:
    key = _TOWER.sub("", name)
    for pattern, ours in _RENAMED:
        key = pattern.sub(ours, key)
    for theirs, ours in _NECK.items():
        key = key.replace(theirs, ours) if key.startswith(theirs) else key
    return key


def complete_sam2(state: State, net: nn.Module) -> State:
    """With timm's norm behind the deepest map, which SAM 2 has not and no map passes, as `net` was made with it."""
    own = net.state_dict()
    if "pos_embed_window" not in own:
        return state
    return {key: value for key, value in own.items() if key.startswith("head.norm.")} | state
