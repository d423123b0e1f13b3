"""Validation during training: a protocol of `dense_ctx.evaluate`, or the caller's function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, cast

import torch

from ..errors import ConfigError, InputError
from ..model import DenseModel
from .config import TrainConfig
from .data import mix, seed_all
from .processes import in_main
from .run import Run

Validator: TypeAlias = "Callable[[int], dict[str, float]]"


def validator(
    config: TrainConfig, function: Callable[[DenseModel, int], Mapping[str, float]] | None, run: Run
) -> Validator | None:
    """The function that validates after a step; None if the configuration asks for no validation.

    Raises:
        ConfigError: a function or protocol is given without an interval, or an interval without either.
    """
    spec = config.validate
    if not spec.every:
        if function is not None or spec.protocol is not None:
            raise ConfigError("validate.every is 0, so nothing would be validated; give the number of steps")
        return None
    if function is None and spec.protocol is None:
        raise ConfigError(f"validate.every is {spec.every}; give validate.protocol and validate.data, or a function")

    def check(step: int) -> dict[str, float]:
        run.step.eval()
        seed_all(mix(config.seed, "validate", step))
        with torch.no_grad(), run.averaged.applied():
            return _protocol(run, step) if function is None else _call(run, function, step)

    return check


def _call(run: Run, function: Callable[[DenseModel, int], Mapping[str, float]], step: int) -> dict[str, float]:
    def work() -> dict[str, float]:
        result = function(run.step.model, step)
        if not isinstance(result, Mapping):
            raise InputError(f"validate gave a {type(result).__name__}; expected a mapping of names to numbers")
        return {str(name): float(value) for name, value in result.items()}

    return cast("dict[str, float]", in_main(run.accelerator, work))


def _protocol(run: Run, step: int) -> dict[str, float]:
    """Evaluate under the configured protocol; the processes share the work through the folder validation/step_N."""
    from ..evaluate.protocol import load_protocol
    from ..evaluate.run import evaluate

    spec = run.config.validate
    out = run.out / "validation" / f"step_{step}"
    protocol = load_protocol(cast(str, spec.protocol), spec.set)
    with torch.enable_grad():  # probes that train
        result = evaluate(run.step.model, protocol, cast(str, spec.data), out, name=f"step {step}", limit=spec.limit)
    return {result.metric: result.value, **{name: float(value) for name, value in result.scores.items()}}
