"""Official FlowFeat checkpoints (github.com/tum-vision/flowfeat) -> a model folder: encoder and DPT decoder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from dense_ctx_backbones.official import checkpoint_tensors, official_model
from torch import Tensor

from dense_ctx.config import Part, parse_part
from dense_ctx.errors import CheckpointError
from dense_ctx.model import DenseModel
from dense_ctx.persistence.tensors import misfits, refuse, specs

from .dpt import DPT

# never reached by their forward: the deepest level has nothing to join
_UNUSED = "scratch.refinenet4.resConfUnit1."
# of an uncleaned snapshot: the slow copy of the decoder, heads of other trainings; of the encoder: pre-training's token
_THROWN_AWAY = ("decoder_ema.", "layer_norm", "mlp_head_err", "bases", "encoder.mask_token")
_SIZES = {384: "s", 768: "b", 1024: "l"}


def from_flowfeat(path: str | os.PathLike[str], backbone: str | None = None) -> DenseModel:
    """The model of an official checkpoint; `save_pretrained(folder)` makes a model folder of it.

    Its decoder reads the blocks' outputs before the final norm, as the official one does. So `patches` are not normed
    either (the norm is loaded, and read with norm=true), where the official network gives its encoder's features after
    the norm.

    Args:
        path: of the .pth file, with `encoder.*` and `decoder.*`.
        backbone: NAME or NAME(key=value, ...); default by the tensors: "dinov2-s14", "dino-b16", "mae-b16" ...

    Raises:
        FileError: no such file.
        CheckpointError: damaged; tensors missing, left over or of a shape that does not fit, by name.
        WeightsError: encoder tensors that do not fit the backbone, by name.
    """
    state = checkpoint_tensors(Path(path))
    unused = [key for key in state if key.startswith((*_THROWN_AWAY, f"decoder.{_UNUSED}", "encoder.norm."))]
    rest = {key: value for key, value in state.items() if not key.startswith(_THROWN_AWAY)}
    encoder = {key.removeprefix("encoder."): value for key, value in rest.items() if key.startswith("encoder.")}
    unknown = [key for key in rest if not key.startswith(("encoder.", "decoder."))]
    if unknown or not encoder:
        raise CheckpointError(
            f"{path} has {f'tensors not known to be unused, {unknown[0]}' if unknown else 'no encoder.*'}: not a "
            f"FlowFeat checkpoint. Its tensors begin with {', '.join(list(state)[:4])}"
        )
    head = flowfeat_decoder(rest)
    part = parse_part(_backbone_of(encoder, head, Path(path)) if backbone is None else backbone)
    part = replace(part, args={**part.args, "norm": False})
    projections = head.projections
    args = {"dim": head.dim, "width": head.head.in_channels, "projections": projections, "norm": head.norm is not None}
    model = official_model(Path(path), part, Part("dpt", args), encoder, "encoder.", unused)
    try:
        model.decoder.load_state_dict(head.state_dict())
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: its decoder does not fit maps of {list(model.backbone.dims)}: {error}"
        ) from None
    return model


def _backbone_of(encoder: Mapping[str, Tensor], head: DPT, path: Path) -> str:
    """The registered name. DINO's and MAE's tensors are alike, but MAE's decoder projects to fewer channels."""
    patches = encoder.get("patch_embed.proj.weight")
    width, patch = (0, 0) if patches is None else (patches.shape[0], patches.shape[-1])
    if width not in _SIZES or patch not in (8, 14, 16):
        raise CheckpointError(f"{path}: an encoder of width {width} and patches of {patch} pixels; give backbone=NAME")
    registers = "reg-" if "register_tokens" in encoder else ""
    plain = "dino" if head.projections[0] == width else "mae"
    family = f"dinov2-{registers}" if "blocks.0.ls1.gamma" in encoder else f"{plain}-"
    return f"{family}{_SIZES[width]}{patch}"


def flowfeat_decoder(state: Mapping[str, Tensor]) -> DPT:
    """Build the decoder of a FlowFeat checkpoint (its `decoder.*` tensors, or those without the prefix).

    Widths are read off the tensors; the backbone's maps are taken to have the projections' input channels.

    Raises:
        CheckpointError: tensors missing, left over or of a shape that does not fit, by name.
    """
    state = {key.removeprefix("decoder."): value for key, value in state.items() if not key.startswith("encoder.")}
    try:
        first = [state[f"act_postprocess{level}.post.0.weight"] for level in range(1, 5)]
        decoder = DPT(
            dims=[weight.shape[1] for weight in first],
            strides=[14] * 4,
            dim=state["scratch.output_conv1.2.weight"].shape[0],
            width=state["scratch.output_conv0.weight"].shape[0],
            projections=[weight.shape[0] for weight in first],
            norm="norm.norm.weight" in state,
        )
    except KeyError as error:
        raise CheckpointError(
            f"No tensor {error.args[0]!r}: not a FlowFeat decoder. Its first tensors are {', '.join(list(state)[:4])}"
        ) from None
    own = decoder.state_dict()
    renamed = {_rename(key): value for key, value in state.items() if not key.startswith(_UNUSED)}
    refuse(misfits(specs(renamed), specs(own), cast=True), "Not a FlowFeat decoder")
    decoder.load_state_dict(renamed)
    return decoder


def _rename(key: str) -> str:
    part, _, rest = key.partition(".")
    if part.startswith("act_postprocess"):
        return f"reassemble.{int(part[-1]) - 1}.{rest.removeprefix('post.')}"
    if part == "norm":
        return f"norm.{rest.removeprefix('norm.')}"
    part, _, rest = rest.partition(".")
    if part.startswith("layer"):
        return f"lateral.{int(part[5]) - 1}.{rest}"
    if part.startswith("refinenet"):
        unit, _, rest = rest.partition(".")
        return f"{'skip' if unit == 'resConfUnit1' else 'fuse'}.{int(part[-1]) - 1}.{rest}"
    return f"{'head' if part == 'output_conv0' else 'project'}.{rest}"
