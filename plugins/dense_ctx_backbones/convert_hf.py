"""transformers' names -> timm's, for plain ViTs as the Hub stores them: DINOv2, DINOv3, CLIP, MAE, SigLIP, AIMv2, ViT.

So a folder of facebook/dinov2-small serves `dinov2-s14` as timm's own file does. Tensors without effect are listed in
`unused`.
"""

from __future__ import annotations

import re

import torch
from einops import rearrange
from torch import nn

from dense_ctx.errors import WeightsError

from .unused import is_unused
from .weights import State, renamed

_TOWER = re.compile(r"^(vision_model|vision_tower|model|vit|dinov2|dinov2_with_registers|dinov3_vit)\.")
_BLOCK = re.compile(r"^(?:encoder\.|model\.)?layers?\.(\d+)\.(.+)$")
_STEM = {
    "embeddings.cls_token": "cls_token",
    "embeddings.class_embedding": "cls_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.position_embedding.weight": "pos_embed",
}
_MODULES = {  # within a block
    "norm1": ("norm1", "layernorm_before", "layer_norm1", "rms_norm1"),
    "norm2": ("norm2", "layernorm_after", "layer_norm2", "rms_norm2"),
    "attn.proj": ("attention.output.dense", "self_attn.out_proj", "attention.o_proj", "attention.out_proj"),
    "mlp.fc1": ("mlp.fc1", "intermediate.dense", "mlp.up_proj", "mlp.weights_in"),
    "mlp.fc2": ("mlp.fc2", "output.dense", "mlp.down_proj", "mlp.weights_out", "ffn.down_proj"),
    "mlp.fc1_g": ("mlp.gate_proj", "ffn.gate_proj"),
    "mlp.fc1_x": ("ffn.up_proj",),
}
_INNER = {theirs: ours for ours, names in _MODULES.items() for theirs in names}
_OUTER = {  # outside the blocks
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.patch_embeddings": "patch_embed.proj",
    "embeddings.patch_embedding": "patch_embed.proj",
    "embeddings.patch_embed": "patch_embed.proj",
    "embeddings.rms_norm": "patch_embed.norm",
    "rms_norm": "norm",
    "pre_layrnorm": "norm_pre",
    "layernorm": "norm",
    "post_layernorm": "norm",
    "norm": "norm",
    "head.attention.out_proj": "attn_pool.proj",
    "head.layernorm": "attn_pool.norm",
    "head.mlp.fc1": "attn_pool.mlp.fc1",
    "head.mlp.fc2": "attn_pool.mlp.fc2",
}
_QKV = re.compile(r"^(?:attention\.attention|self_attn|attention)\.(query|key|value|q_proj|k_proj|v_proj)$")


def is_hf(state: State) -> bool:
    """Whether the tensors carry transformers' names for a plain ViT."""
    return any("embeddings.patch_embed" in key for key in state)


def hf_to_timm(state: State, net: nn.Module) -> State:
    """Map transformers' tensors onto the names of timm's `net`; loading is strict afterwards.

    Unknown names are kept, so that the strict loading reports them.

    Raises:
        WeightsError: query, key and value of a block are incomplete, or a bias would be lost.
    """
    own = net.state_dict()
    converted: State = {}
    parts: dict[str, dict[str, torch.Tensor]] = {}  # "blocks.3.attn weight" -> q, k, v
    # SigLIP's head is timm's pooling
    used = {name: v for name, v in state.items() if not is_unused(name) or _TOWER.sub("", name).startswith("head.")}
    for key, value in renamed(used, lambda name: _TOWER.sub("", name)).items():
        if key in _STEM:
            target = _STEM[key]
            converted[target] = value.reshape(1, -1, value.shape[-1])
            continue
        block = _BLOCK.match(key)
        block_prefix, rest = (f"blocks.{block[1]}.", block[2]) if block else ("", key)
        module, _, kind = rest.rpartition(".")
        qkv = _QKV.match(module) if block else None
        if qkv:
            parts.setdefault(f"{block_prefix}attn {kind}", {})[qkv[1][0]] = value
        elif block and module in ("layer_scale1", "layer_scale2"):
            number = module[-1]
            eva = f"{block_prefix}gamma_{number}"  # timm keeps DINOv3 in its EVA class
            converted[eva if eva in own else f"{block_prefix}ls{number}.gamma"] = value
        elif module in (_INNER if block else _OUTER):
            gated = module == "mlp.up_proj" and f"{block_prefix}mlp.fc1_x.{kind}" in own  # DINOv3's larger networks
            converted[f"{block_prefix}{'mlp.fc1_x' if gated else (_INNER if block else _OUTER)[module]}.{kind}"] = value
        else:
            converted[key] = value
    for label, pieces in parts.items():
        converted |= _attention(label, pieces, own)
    _pool(converted)
    _rows(converted)
    if "pos_embed" in converted and getattr(net, "no_embed_class", False) and "cls_token" in converted:
        # timm adds the class token's position to the token itself where registers stand between it and the patches
        converted["cls_token"] = converted["cls_token"] + converted["pos_embed"][:, :1]
        converted["pos_embed"] = converted["pos_embed"][:, 1:]
    return converted


def _attention(label: str, pieces: dict[str, torch.Tensor], own: State) -> State:
    """Join one block's query, key and value, or give their biases one by one, as `own` wants them."""
    prefix, kind = label.split(" ")
    if kind == "bias":
        if "q" in pieces and "v" in pieces:  # DINOv3's keys have no bias
            pieces.setdefault("k", torch.zeros_like(pieces["q"]))
        if f"{prefix}.qkv.bias" not in own and pieces.keys() == set("qkv"):
            if f"{prefix}.q_bias" in own and not pieces["k"].any():
                return {f"{prefix}.q_bias": pieces["q"], f"{prefix}.v_bias": pieces["v"]}
            if not any(bool(piece.any()) for piece in pieces.values()):
                return {}  # the published small, base and large DINOv3 have biases of zero, and timm none
            raise WeightsError(
                f"{prefix} has biases that are not zero, and this network takes none: "
                f'for DINOv3 use "timm:..._dinov3_qkvb", which has them'
            )
    if pieces.keys() != set("qkv"):
        raise WeightsError(f"{prefix}: of query, key and value ({kind}) the weights hold only {sorted(pieces)}")
    return {f"{prefix}.qkv.{kind}": torch.cat([pieces[letter] for letter in "qkv"])}


def _pool(converted: State) -> None:
    """SigLIP's attention pooling: one matrix for query, key and value -> timm's q and kv."""
    if "head.probe" in converted:
        converted["attn_pool.latent"] = converted.pop("head.probe")
    for kind in ("weight", "bias"):
        stacked = converted.pop(f"head.attention.in_proj_{kind}", None)
        if stacked is not None:
            width = len(stacked) // 3
            converted[f"attn_pool.q.{kind}"], converted[f"attn_pool.kv.{kind}"] = stacked[:width], stacked[width:]


def _rows(converted: State) -> None:
    """SigLIP 2 NaFlex projects patches as rows of pixels: to a convolution's weight."""
    weight = converted.get("patch_embed.proj.weight")
    if weight is not None and weight.ndim == 2:
        side = round((weight.shape[1] // 3) ** 0.5)
        converted["patch_embed.proj.weight"] = rearrange(weight, "c (h w k) -> c k h w", k=3, h=side)
