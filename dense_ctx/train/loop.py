"""The one loop: data -> TrainStep -> backward -> optimizer -> after_step -> log -> state -> model folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, NonFiniteError, StoppedError
from ..interfaces import Objective
from ..model import DenseModel
from . import state
from .config import TrainConfig
from .data import kept_generators, mix, seed_all
from .log import Log
from .run import Run, open_run
from .signals import Signals
from .validation import Validator, validator

MAX_SKIPS = 32  # float16: 2**-32 of the first loss scale; no gradient was finite that often in a row


def train(
    config: TrainConfig,
    *,
    model: DenseModel | None = None,
    objective: Objective | None = None,
    dataset: Any = None,
    validate: Callable[[DenseModel, int], Mapping[str, float]] | None = None,
) -> Path:
    """Train a model and write it as a folder that `from_pretrained` opens and `push_to_hub` publishes.

    Processes started by `accelerate launch` share each batch; the result is that of one process. A run that was
    killed goes on from its newest state when called again, with bitwise the same losses on the CPU.

    Args:
        config: of the run.
        model, objective, dataset: in place of those the configuration names; the model must be made of names, or
            it could not be saved. The model is trained in place.
        validate: (model in eval mode, step) -> {name: value}, called in the first process every
            `config.validate.every` steps and after the last, in place of `config.validate.protocol`.

    Returns:
        `config.out`/model.

    Raises:
        ConfigError: the configuration; or `out` holds a run that differs in a key that may not change.
        InputError: the data set has no length, or the batch cannot be shared by the processes.
        NonFiniteError: a loss or gradient became NaN or infinite; the last state is kept.
        StoppedError: SIGINT or SIGTERM came; the state was saved.
        FileError: `out` cannot be written, or the disk is full; earlier states are kept.
        CheckpointError: the states are damaged.
    """
    with kept_generators():
        run = open_run(config, model, objective, dataset)
        check = validator(config, validate, run)
        batches = iter(run.loader)
        try:
            with Signals() as signals, run.log() as log:
                _loop(run, batches, log, signals, check)
        finally:
            # a worker that still reads ahead would be waited for at the interpreter's exit
            getattr(batches, "_shutdown_workers", lambda: None)()
        return run.publish()


def _loop(run: Run, batches: Iterator[Any], log: Log, signals: Signals, check: Validator | None) -> None:
    config, began = run.config, time.monotonic()
    before, skipped = run.seconds, 0
    run.step.train()
    for step in range(run.start + 1, config.steps + 1):
        lr = run.set_lr(step - 1)
        losses, ids, finite = _backward(run, batches, step)
        if step == run.start + 1:
            _check_reached(run)
        norm, bad, overflow = _gradient(run)
        # float16's loss scale is too large now and then: the optimizer then leaves the step out and lowers it
        scaled = run.accelerator.scaler is not None and bad is not None and overflow
        skipped = skipped + 1 if scaled else 0
        faults = [not all(finite), bad is not None and (not scaled or skipped > MAX_SKIPS)]
        mean, stopped = _agree(run, losses["loss"], any(faults), signals.received)
        if stopped < 0:
            _refuse(run, step, ids, finite, bad if faults[1] else None)
        if not scaled and config.clip_norm is not None and norm > config.clip_norm:
            torch._foreach_mul_([p.grad for p in run.parameters if p.grad is not None], config.clip_norm / norm)
        run.optimizer.step()
        if not scaled:
            run.step.after_step(step)
        run.averaged.update(step)
        run.seconds = before + time.monotonic() - began
        log.advance(step, mean)
        if step % config.log == 0 or step == config.steps:
            log.write(_row(run, step, losses, lr, norm))
        last = step == config.steps
        if check is not None and (step % config.validate.every == 0 or last):
            log.write({"step": step, "validation": check(step), "seconds": round(run.seconds, 3)})
            run.step.train()
        if run.accelerator.num_processes == 1:  # several stop at a step before which all have heard of it
            stopped = signals.received
        if stopped or last or (config.save.every and step % config.save.every == 0):
            run.save(step)
        if stopped and not last:
            again = "The same command goes on from there" if config.resume != "never" else "Go on with resume=auto"
            raise StoppedError(
                f"stopped after step {step} of {config.steps}, saved in {state.folder_of(run.out, step)}. {again}",
                stopped,
            )


def _backward(run: Run, batches: Iterator[Any], step: int) -> tuple[dict[str, Tensor], list[list[Any]], list[bool]]:
    """Gradients of one step. Returns means of the losses, and the samples of each part and whether it is finite."""
    from accelerate.utils import send_to_device

    run.optimizer.zero_grad()
    parts, ids, totals = run.config.accumulate, [], []
    losses: dict[str, Tensor] = {}
    for part in range(parts):
        indices, batch = next(batches)
        batch = send_to_device(batch, run.accelerator.device)
        ids.append(_names(batch, indices))
        # what the objective draws depends on nothing but its place in the run
        seed_all(mix(run.config.seed, "step", step, part, run.accelerator.process_index))
        with run.accelerator.no_sync(run.wrapped) if part + 1 < parts else nullcontext():
            result = run.wrapped(batch)
            run.accelerator.backward(result.total / parts)
        totals.append(result.total.detach())
        for name, value in {**result.logs, "loss": totals[-1]}.items():
            losses[name] = losses.get(name, 0) + value.detach().float() / parts
    return losses, ids, torch.stack(totals).isfinite().tolist()


def _check_reached(run: Run) -> None:
    """Several processes wait for the gradient of every parameter that trains; say which one never comes."""
    idle = [name for name, p in run.step.named_parameters() if p.requires_grad and p.grad is None]
    if idle and run.accelerator.num_processes > 1:
        raise InputError(
            f"{type(run.step.objective).__name__}.setup lists {', '.join(idle[:4])}, which no loss depends on; "
            "several processes would wait for its gradient for ever. Leave it out of setup()"
        )


def _names(batch: Any, indices: list[int]) -> list[Any]:
    found = batch.get("names", batch.get("name")) if isinstance(batch, Mapping) else None
    return list(found) if isinstance(found, (list, tuple)) else indices


def _gradient(run: Run) -> tuple[float, str | None, bool]:
    """Norm of the gradient; where that is not finite, the parameter at fault, and whether its elements are not."""
    run.accelerator.unscale_gradients(run.optimizer)
    named = [(name, p.grad) for name, p in run.step.named_parameters() if p.requires_grad and p.grad is not None]
    if not named:
        return 0.0, None, False
    norms = torch.stack(
        [n.to(run.accelerator.device) for n in torch._foreach_norm([grad for _, grad in named])]
    ).float()
    norm = float(norms.norm())
    if math.isfinite(norm):
        return norm, None, False
    for name, grad in named:
        if not bool(grad.isfinite().all()):
            return norm, name, True
    return norm, named[int(norms.argmax())][0], False  # finite, and too large to be squared


def _agree(run: Run, loss: Tensor, failed: bool, signal: int) -> tuple[float, int]:
    """Mean loss of all processes, and what all do now: 0 go on, a signal's number stop, -1 fail."""
    if run.accelerator.num_processes == 1:
        return float(loss), -1 if failed else signal
    mine = torch.stack([loss, loss.new_tensor(float(failed)), loss.new_tensor(float(signal))])
    every = run.accelerator.gather(mine[None]).cpu()
    return float(every[:, 0].mean()), -1 if bool(every[:, 1].any()) else int(every[:, 2].max())


def _refuse(run: Run, step: int, ids: list[list[Any]], finite: list[bool], bad: str | None) -> None:
    """Raise NonFiniteError, the same in every process."""
    from accelerate.utils import gather_object

    loss = [name for part, good in zip(ids, finite, strict=True) if not good for name in part]
    found = [(loss, bad, [name for part in ids for name in part])]
    every = gather_object(found) if run.accelerator.num_processes > 1 else found
    losses = [name for part, _, _ in every for name in part]
    tensor = "loss" if losses else f"the gradient of {next(name for _, name, _ in every if name)}"
    samples = losses or [name for _, _, part in every for name in part]
    last = state.listed(run.out)
    raise NonFiniteError(
        f"step {step}: {tensor} is NaN or infinite. Samples of the batch: {', '.join(map(str, samples[:64]))}. "
        + (f"The last good state is {last[0]}" if last else "No state had been saved yet (save.every)")
        + ". Look at these samples, lower optimizer.lr, or set mixed_precision=no"
    )


def _row(run: Run, step: int, losses: Mapping[str, Tensor], lr: float, norm: float) -> dict[str, Any]:
    names = sorted(losses)
    values = torch.stack([losses[name] for name in names])
    if run.accelerator.num_processes > 1:
        values = run.accelerator.reduce(values, "mean")
    read = {name: value if math.isfinite(value) else None for name, value in zip(names, values.tolist(), strict=True)}
    return {
        "step": step,
        "loss": read.pop("loss"),
        "losses": read,
        "lr": lr,
        "grad_norm": norm if math.isfinite(norm) else None,
        "seconds": round(run.seconds, 3),
    }
