"""Tensors of published checkpoints that no feature depends on: with the reason.

All other tensors of a checkpoint are loaded or refused. A name may follow prefixes ("module.", "visual.").
"""

from __future__ import annotations

import re

# reason -> names, each a pattern from the start of a name, or of what is left of it behind its prefixes
UNUSED: dict[str, tuple[str, ...]] = {
    "classifiers, and the heads and centres of self-supervised training": (
        r"(head|fc|classifier|head_dist|last_layer|dino_head|ibot_head|mim_head|lm_head|fc_norm|conv_head|projectors)\.",
        r"(dino_loss|ibot_patch_loss)\.",
        r"local_cls_norm\.",
    ),
    "pooling and projection after the deepest map": (
        r"(attn_pool|pooler|post_pool_norm|visual_projection)\.",
        r"visual\.(proj|head\.)",
        r"proj$",
    ),
    "norms of a ConvNeXt's stages, which its maps do not use": (r"norms\.\d+\.",),
    "mask tokens of training": (r"(embeddings\.|vision_encoder\.)?mask_token$",),
    "decoders: MAE's, FlowFeat's": (r"decoder(_\w+)?\.", r"decoder_pos_embed$"),
    "text towers": (
        r"(text|text_model|text_encoder|transformer|token_embedding|ln_final)\.",
        r"(text_projection|positional_embedding|logit_scale|logit_bias|temperature)(\.\w+)?$",
    ),
    "sizes that OpenAI's CLIP files state": (r"(input_resolution|context_length|vocab_size)$",),
    "SAM's neck, prompt encoder and mask decoder": (
        r"((image|vision)_encoder\.)?neck\.",
        r"(sam_)?(prompt_encoder|mask_decoder|shared_image_embedding)\.",
    ),
    "SAM 2's memory": (
        r"(memory_attention|memory_encoder|mask_downsample|obj_ptr_proj|obj_ptr_tpos_proj|object_pointer_proj)\.",
        r"(maskmem_tpos_enc|no_mem_embed|no_mem_pos_enc|no_obj_ptr|no_obj_embed_spatial)$",
        r"(memory_temporal_positional_encoding|no_memory_embedding|no_memory_positional_encoding|no_object_pointer)$",
        r"(occlusion_spatial_embedding_parameter$|temporal_positional_encoding_projection_layer\.)",
    ),
    "the student of a self-distillation, if the teacher is loaded": (r"student\.",),
    "constants that follow from the architecture, compared if the network has them": (
        r"(rope_embed|rope|rope_embeddings)\.(periods|inv_freq|freqs_cos|freqs_sin)$",
        r"embeddings\.position_ids$",
        r"((radio_model\.)?input_conditioner\.norm_(mean|std)|(radio_model\.)?summary_idxs)$",
        r"(.*\.)?(num_batches_tracked|relative_position_index)$",
    ),
}
# loaded, and without effect on a feature: added to all scores of a query alike, they leave the softmax as it is (not so
# under rotary positions, where keys have none)
CANCELLED = re.compile(r".*\.(k_proj|key)\.bias$")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "teacher.", "backbone.", "encoder.", "image_encoder.trunk.")
_BEHIND = re.compile(rf"(?:{'|'.join(map(re.escape, PREFIXES))}|(?:vision_model|vision_tower|vit)\.)*")
_ANY = re.compile("|".join(pattern for patterns in UNUSED.values() for pattern in patterns))


def is_unused(name: str) -> bool:
    """Whether no feature depends on a checkpoint's tensor of this name."""
    match = _BEHIND.match(name)
    behind = name[match.end() :] if match else name
    return bool(_ANY.match(name) or _ANY.match(behind))


def is_cancelled(name: str) -> bool:
    """Whether a tensor is the bias of an attention's keys under a name of its own."""
    return bool(CANCELLED.match(name))
