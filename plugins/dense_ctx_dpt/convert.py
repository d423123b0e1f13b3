"""Official DPT decoder weights -> ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dense_ctx.errors import CheckpointError

from .dpt import DPT

# never reached by their forward: the deepest level has nothing to join
_UNUSED = "scratch.refinenet4.resConfUnit1."


def from_flowfeat(state: Mapping[str, Tensor]) -> DPT:
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
    missing, extra = sorted(set(own) - set(renamed)), sorted(set(renamed) - set(own))
    wrong = [key for key in own if key in renamed and own[key].shape != renamed[key].shape]
    if missing or extra or wrong:
        raise CheckpointError(f"Not a FlowFeat decoder: missing {missing}, left over {extra}, of another shape {wrong}")
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
