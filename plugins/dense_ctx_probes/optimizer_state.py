"""AdamW's moments as named tensors, `optimizer.INDEX.NAME`, for the saved state of a probe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dense_ctx.persistence.tensors import Spec

PREFIX = "optimizer."


def moments(optimizer: Optimizer) -> dict[str, Tensor]:
    """The moments and steps of every parameter, on the CPU."""
    states = optimizer.state_dict()["state"].items()
    return {f"{PREFIX}{index}.{key}": v.detach().cpu() for index, values in states for key, v in values.items()}


def moment_specs(parameters: Iterable[nn.Parameter]) -> dict[str, Spec]:
    """Dtypes and shapes of the moments that AdamW has of these parameters."""
    layout: dict[str, Spec] = {}
    for index, value in enumerate(parameters):
        own = dict.fromkeys(("exp_avg", "exp_avg_sq"), (value.dtype, tuple(value.shape)))
        layout |= {f"{PREFIX}{index}.{name}": spec for name, spec in {**own, "step": (torch.float32, ())}.items()}
    return layout


def restore_moments(optimizer: Optimizer, state: Mapping[str, Tensor]) -> None:
    """Put back what `moments` gave; other tensors of `state` are left aside."""
    restored: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.startswith(PREFIX):
            _, index, name = key.split(".", 2)
            restored.setdefault(int(index), {})[name] = value.clone()
    optimizer.load_state_dict({"state": restored, "param_groups": optimizer.state_dict()["param_groups"]})


def follow_parameters(optimizer: Optimizer) -> None:
    """Move restored moments to where their parameters are now."""
    for parameter, own in optimizer.state.items():
        for key, value in own.items():
            if value.ndim and value.device != parameter.device:
                own[key] = value.to(parameter.device)
