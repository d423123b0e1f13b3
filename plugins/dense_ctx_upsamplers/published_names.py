"""The names of the published files' tensors, as ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from torch import Tensor

from dense_ctx.errors import CheckpointError

State = dict[str, Tensor]
# tensors under our names, the decoder's arguments that follow from their shapes, and names (of rows, as name[64:]) of
# tensors that nothing that comes out depends on. What is unknown keeps its name, so that loading refuses it by that
Renamed: TypeAlias = "tuple[State, dict[str, Any], list[str]]"

_ATTENTION = "cross_decode.cross_attn."
_BLOCK = {"block.0": "norm1", "block.2": "conv1", "block.3": "norm2", "block.5": "conv2"}


def anyup_tensors(state: Mapping[str, Tensor]) -> Renamed:
    """Ours of AnyUp's; the projections of values and of the output are not used, see `Attention`."""
    width = _length(state, "rope.freqs", 1)
    tensors, unused = _attention(state, width)
    pattern = re.compile(r"(?<=\.)(block\.[0235])(?=\.)")
    return {pattern.sub(lambda m: _BLOCK[m[0]], key): value for key, value in tensors.items()}, {"width": width}, unused


def jafar_tensors(state: Mapping[str, Tensor]) -> Renamed:
    """Ours of JAFAR's, bare or under `jafar.` beside what its training script keeps."""
    unused = [key for key in state if key.startswith("optimizer_jafar.")]
    state = {key.removeprefix("jafar."): value for key, value in state.items() if key not in set(unused)}
    width = _length(state, "rope.freqs", 1)
    tensors, more = _attention(state, width)
    return {key.removeprefix("sft_key."): value for key, value in tensors.items()}, {"width": width}, [*unused, *more]


def naf_tensors(state: Mapping[str, Tensor]) -> Renamed:
    """Ours of NAF's: the same names without `image_encoder.` and `rope.`."""
    width = 2 * _length(state, "image_encoder.encoder.0.weight", 0)
    return {re.sub(r"^image_encoder\.(rope\.)?", "", key): value for key, value in state.items()}, {"width": width}, []


def _length(state: Mapping[str, Tensor], name: str, axis: int) -> int:
    """A side of a tensor, from which the decoder's width follows."""
    if name not in state or state[name].ndim <= axis:
        raise CheckpointError(
            f"No tensor {name!r}{' of that many sides' if name in state else ''}: not such a file. Its first tensors "
            f"are {', '.join(list(state)[:4])}"
        )
    return state[name].shape[axis]


def _attention(state: Mapping[str, Tensor], width: int) -> tuple[State, list[str]]:
    """torch's multi-head attention, with one projection of all three or one of each, as two of queries and keys."""
    own, unused = {}, []
    for key, value in state.items():
        name = key.removeprefix(_ATTENTION)
        if name == key:
            own[key.replace("cross_decode.conv2d.", "attention.conv2d.")] = value
        elif name.startswith("norm_v.") or name.startswith(("attention.out_proj.", "attention.v_proj")):
            unused.append(key)
        elif name in ("attention.in_proj_weight", "attention.in_proj_bias") and len(value) == 3 * width:
            side = name.rpartition("_")[2]
            own[f"attention.query.{side}"], own[f"attention.key.{side}"] = value[:width], value[width : 2 * width]
            unused.append(f"{key}[{2 * width}:]")
        elif name in ("attention.q_proj_weight", "attention.k_proj_weight"):
            own[f"attention.{'query' if 'q_proj' in name else 'key'}.weight"] = value
        else:
            own[f"attention.{name}"] = value
    return own, unused


def featup_tensors(state: Mapping[str, Tensor]) -> Renamed:
    """Ours of FeatUp's, whose file holds the backbone too (`0.`), and what only its training needs."""
    unused = [key for key in state if key.startswith(("0.", "downsampler.", "scale_net."))]
    rest = {key: value for key, value in state.items() if key not in set(unused)}
    tensors = {re.sub(r"^upsampler\.|(?<=^)1\.(?=norm\.)", "", key): value for key, value in rest.items()}
    return tensors, {"norm": "norm.weight" in tensors}, unused


def loftup_tensors(state: Mapping[str, Tensor]) -> Renamed:
    """Ours of LoftUp's: `upsampler.*` and `channelnorm.*`; the training script has the latter as `model.1.*`."""
    unused = [key for key in state if key.startswith(("0.", "downsampler.", "scale_net."))]
    tensors: State = {}
    for key, value in state.items():
        if key in unused:
            continue
        name = re.sub(r"^(channelnorm|1)\.norm\.", "channelnorm.", key.removeprefix("upsampler."))
        for pattern, ours in _LOFTUP:
            name = re.sub(pattern, ours, name)
        if name.endswith((".in_proj_weight", ".in_proj_bias")) and len(value) % 3 == 0:
            stem, _, side = name.rpartition(".in_proj_")
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                tensors[f"{stem}.{part}.{side}"] = third
        else:
            tensors[name] = value
    return tensors, {}, unused


_LOFTUP = (
    (r"^fourier_feat\.1\.", "fourier_feat."),
    (r"^first_conv\.0\.norm\.", "first_norm."),
    (r"^first_conv\.(\d)\.", lambda match: f"first_conv.{int(match[1]) - 1}."),
    (r"^final_conv\.1\.", "final_norm."),
    (r"^final_conv\.0\.", "final_conv."),
    (r"^ca_transformer\.norm\.", "norm."),
    (r"^ca_transformer\.layers\.(\d)\.0\.(attention\.)?", r"transformer.\1."),
    (r"^ca_transformer\.layers\.(\d)\.1\.", r"transformer.\1."),
    (r"\.out_proj\.", ".out."),
    (r"\.net\.4\.", ".net.3."),
)


def uplift_tensors(state: Mapping[str, Tensor]) -> Renamed:
    """Ours of UPLiFT's."""
    width = _length(state, "attender.conv1.weight", 1)
    tensors = dict(state)
    for pattern, ours in _UPLIFT:
        tensors = {re.sub(pattern, ours, key): value for key, value in tensors.items()}
    return tensors, {"width": width}, []


_UPLIFT = (
    (r"^encoder\.block_(\d)\.blocks\.0\.", r"encoder.\1."),
    (r"^decoder\.block_0\.blocks\.0\.", "before."),
    (r"^decoder\.block_1\.blocks\.0\.", "after."),
    (r"^decoder\.up_1\.up\.", "twice."),
    (r"^attender\.conv1\.", "weights."),
)
