"""state/step_N: everything that a run needs to resume. Tensors in safetensors, numbers in JSON, no pickle.

    state.json          step, seconds, configuration, names of what follows, the loss scaler
    state.safetensors   module.*: what was trained, all buffers, the objective's own; optimizer.*, average.*: by
                        parameter name
    manifest.json       sha256 of the two

A state with NaN or infinity is not saved and does not count as good. No random state is in it: every random number
comes from the seed and the step (`dense_ctx.train.data`).
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..config import typed
from ..errors import CheckpointError, FileError, NonFiniteError
from ..files import write_tensors
from ..numerics import require_finite
from ..persistence.artefact import Artefact, read_object
from ..persistence.tensors import read_state, require_state, specs, stored
from .config import TrainConfig
from .step import TrainStep

FORMAT = 1
META, TENSORS = "state.json", "state.safetensors"
STATE = Artefact("training state", (META, TENSORS))
_MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW


@dataclass(frozen=True)
class Meta:
    """state.json: `step` steps are done, in `seconds`; `frozen` is the digest of the weights that do not train.

    fresh: whether the model was when the run began. parts: of a step, processes x accumulate. draws: whether the
    objective draws random numbers in each.
    """

    step: int
    seconds: float
    samples: int
    config: Mapping[str, Any]
    frozen: str
    fresh: bool = False
    scaler: Mapping[str, Any] | None = None
    parts: int = 1
    draws: bool = False
    format: int = FORMAT


def folder_of(out: Path, step: int) -> Path:
    """Folder of the state after `step` steps."""
    return out / "state" / f"step_{step}"


def listed(out: Path) -> list[Path]:
    """The states of a run, newest first."""
    numbered = [(path.name[5:], path) for path in (out / "state").glob("step_*") if path.is_dir()]
    return [path for _, path in sorted(((int(n), p) for n, p in numbered if n.isdigit()), reverse=True)]


def newest(out: Path) -> Path | None:
    """The newest complete state of a run; None where no state exists.

    Raises:
        CheckpointError: all states are damaged.
    """
    faults = []
    for folder in listed(out):
        try:
            check(folder)
        except (CheckpointError, FileError, NonFiniteError) as error:
            warnings.warn(f"{error}; an older state is taken", stacklevel=2)
            faults.append(error)
        else:
            return folder
    if faults:
        advice = "Remove them, or choose another out"
        raise CheckpointError(f"All states under {out / 'state'} are damaged: {faults[0]}. {advice}")
    return None


def check(folder: Path) -> Meta:
    """Verify a state, its numbers too, and read its state.json.

    Raises:
        FileError: no such state.
        CheckpointError: damaged, or of a newer format.
        ConfigError: an entry that is missing, unknown, or of the wrong type or range.
        NonFiniteError: NaN or infinity in it.
    """
    data, tensors = STATE.read(folder, lambda part: read_object(part / META), lambda part: read_state(part / TENSORS))
    if not isinstance(data.get("format"), int) or data["format"] > FORMAT:
        raise CheckpointError(f"{folder} has format {data.get('format')!r:.100}; this dense_ctx reads up to {FORMAT}")
    _require_finite(str(folder), "Remove it", tensors)
    meta = typed(Meta, data, str(folder / META))
    TrainConfig.from_dict(meta.config, f"{folder / META}: config")
    return meta


def module_tensors(step: TrainStep) -> dict[str, Tensor]:
    """What the state keeps of the modules: everything but the backbone's parameters that do not train."""
    left_out = {f"model.backbone.{n}" for n, p in step.model.backbone.named_parameters() if not p.requires_grad}
    tensors = {name: value for name, value in step.state_dict().items() if name not in left_out}
    odd = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if odd:
        raise CheckpointError(f"The state of {odd[0]} is no tensor, so it cannot be saved; make it a buffer")
    return tensors


def _parameter_names(step: TrainStep, optimizer: Optimizer) -> list[str]:
    names = {id(parameter): name for name, parameter in step.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def write(folder: Path, step: TrainStep, optimizer: Optimizer, average: Mapping[str, Tensor], meta: Meta) -> None:
    """Write a state, whole or not at all; `average` holds the weights' means by name.

    Raises:
        FileError: it cannot be written.
        NonFiniteError: a weight that trains, its moments or its mean are NaN or infinite; nothing is written.
    """
    tensors = {f"module.{name}": value for name, value in module_tensors(step).items()}
    names = _parameter_names(step, optimizer)
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{names[index]}/{key}": torch.as_tensor(value) for key, value in values.items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    _require_finite(f"step {meta.step}, which is not saved", last_good(folder.parent.parent), tensors)

    def fill(partial: Path) -> None:
        write_tensors(partial / TENSORS, stored(tensors))
        (partial / META).write_text(json.dumps(asdict(meta), indent=1) + "\n", encoding="utf-8")

    STATE.write(folder, fill)


def _require_finite(what: str, advice: str, tensors: Mapping[str, Tensor]) -> None:
    """Of what trains, its moments and means; in buffers infinity may have a meaning (masks)."""
    parameters = {f"module.{name[10:].rpartition('/')[0]}" for name in tensors if name.startswith("optimizer.")}
    values = {name: t for name, t in tensors.items() if name in parameters or not name.startswith("module.")}
    require_finite(what, advice, **values)


def last_good(out: Path) -> str:
    """Which state there is to go back to, in words."""
    states = listed(out)
    return f"The last good state is {states[0]}" if states else "No state had been saved yet (save.every)"


def prune(out: Path, keep: int) -> None:
    """Remove all but the newest states; one that cannot be removed stays."""
    for folder in listed(out)[keep:]:
        shutil.rmtree(folder, ignore_errors=True)


def discard_after(out: Path, step: int) -> None:
    """Remove states of later steps, damaged or left behind by going back."""
    for folder in listed(out):
        if int(folder.name[5:]) > step:
            shutil.rmtree(folder, ignore_errors=True)


def load(folder: Path, step: TrainStep, optimizer: Optimizer) -> dict[str, Tensor]:
    """Put a state's tensors into the modules and the optimizer, strictly; returns the weights' means by name.

    Raises:
        CheckpointError: damaged, or of other modules.
        NonFiniteError: NaN or infinity in it.
    """
    _, tensors = STATE.read(folder, lambda part: None, lambda part: read_state(part / TENSORS))
    _require_finite(str(folder), "Remove it", tensors)
    own = {f"module.{name}": value for name, value in module_tensors(step).items()}
    names = _parameter_names(step, optimizer)
    places = {name: index for index, name in enumerate(names)}
    layout = specs(own)
    moments: dict[int, dict[str, Tensor]] = {}
    average: dict[str, Tensor] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        parameter, _, key = rest.rpartition("/")
        if kind == "average" and rest in places:
            layout[name] = layout[f"module.{rest}"]
            average[rest] = value
        elif kind == "optimizer" and parameter in places:
            dtype, shape = layout[f"module.{parameter}"]
            layout |= {f"optimizer.{parameter}/{moment}": (dtype, shape) for moment in _MOMENTS}
            layout[f"optimizer.{parameter}/step"] = (torch.float32, ())
            moments.setdefault(places[parameter], {})[key] = value
    if average:
        layout |= {f"average.{name}": layout[f"module.{name}"] for name in names}
    require_state(tensors, layout, f"{folder} is the state of other modules")
    average = {name: value.to(own[f"module.{name}"]) for name, value in average.items()}
    with torch.no_grad():
        for name, target in own.items():
            target.copy_(tensors[name])
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return average
