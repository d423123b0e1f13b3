"""The training loop: batch, losses, backward, optimiser step, log, validation, saved states; the model at the end."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm

from ..errors import ContractError, InputError, NonFiniteError, StoppedError
from ..gateway import gateway
from ..interfaces import Objective
from ..model import DenseModel
from ..numerics import assuming, preserve_generators, random_states
from . import state
from .config import TrainConfig
from .data import mix, seed_all
from .log import Log
from .run import Run, open_run
from .signals import Signals
from .validation import Validator, validator

Part: TypeAlias = "tuple[list[Any], Any]"  # of a step: the names of its samples, and its batch
COUNTING = (BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm)
MAX_SKIPS = 32  # float16: consecutive overflows before the run fails; each halves the loss scale


@gateway
def train(
    config: TrainConfig,
    *,
    model: DenseModel | None = None,
    objective: Objective | None = None,
    dataset: Any = None,
    validate: Callable[[DenseModel, int], Mapping[str, float]] | None = None,
) -> Path:
    """Train a model and write it as a folder that `from_pretrained` opens and `push_to_hub` publishes.

    Processes started by `accelerate launch` share each batch; the result is that of one process. An interrupted run
    resumes from its latest state when called again; on the CPU its losses are bitwise identical.

    Args:
        config: of the run.
        model, objective, dataset: used instead of those that the configuration names. The model must be built from
            registered names, or it could not be saved; it is trained in place.
        validate: (model in eval mode, step) -> {name: value}, called in the first process every
            `config.validate.every` steps and after the last; replaces `config.validate.protocol`.

    Returns:
        `config.out`/model.

    Raises:
        ConfigError: it is invalid, or `out` holds a run that differs in a key that may not change.
        InputError: the data set has no length, or the batch cannot be divided among the processes.
        NonFiniteError: a loss, gradient or weight is NaN or infinite; the last good state stays.
        StoppedError: SIGINT or SIGTERM was received; the state was saved.
        FileError, CheckpointError: `out` cannot be written, or another process trains in it; a state is damaged.
    """
    with preserve_generators(), ExitStack() as until:
        run = open_run(config, model, objective, dataset, until)
        check = validator(config, validate, run)
        batches = iter(run.loader)
        with run.callbacks.around(run.step.model, run.out / "model"):
            try:
                log = Log(run.out, run.start, run.steps, config.batch_size, run.active)
                with Signals() as signals, closing(log):
                    _loop(run, batches, log, signals, check)
            finally:
                # else the interpreter waits at exit for workers that are still prefetching
                getattr(batches, "_shutdown_workers", lambda: None)()
            return run.publish()


def _loop(run: Run, batches: Iterator[Any], log: Log, signals: Signals, check: Validator | None) -> None:
    config, began = run.config, time.monotonic()
    before, skipped = run.seconds, 0
    run.step.train()
    for step in range(run.start + 1, run.steps + 1):
        lr = run.set_lr(step - 1)
        parts = [(_names(batch, ids), batch) for ids, batch in (next(batches) for _ in range(config.accumulate))]
        losses, finite, norm, stopped = _gradients(run, parts, step, signals.received)
        bad, overflow = (None, False) if math.isfinite(norm) else _culprit(run)
        # float16: when the loss scale is too large, the optimizer skips the step and lowers the scale
        scaled = run.accelerator.scaler is not None and bad is not None and overflow
        skipped = skipped + 1 if scaled else 0
        fault = bad if bad is not None and (not scaled or skipped > MAX_SKIPS) else None
        if fault or not all(map(all, finite)):
            _refuse(run, step, parts, finite[run.accelerator.process_index], fault)
        if not scaled and config.clip_norm is not None and norm > config.clip_norm:
            torch._foreach_mul_([p.grad for p in run.parameters if p.grad is not None], config.clip_norm / norm)
        run.optimizer.step()
        if scaled:
            scale = run.accelerator.scaler.get_scale()
            log.say(f"step {step}: a gradient overflows in float16; the step is skipped, the scale is now {scale:g}")
        else:
            run.step.after_step(step)
        run.averaged.update(step)
        run.seconds = before + time.monotonic() - began
        log.advance(step, losses["loss"])
        seconds = round(run.seconds, 3)
        run.callbacks("training_step", step, values={**losses, "lr": lr, "grad_norm": norm, "seconds": seconds})
        if step % config.log == 0 or step == run.steps:
            log.write({**_row(run, step, losses, lr, norm), **({"skipped": True} if scaled else {})})
        last = step == run.steps
        if check is not None and (step % config.validate.every == 0 or last):
            scores = check(step)
            log.write({"step": step, "validation": _finite(scores), "seconds": seconds})
            run.callbacks("training_evaluation", step, model=run.step.model, scores=scores)
            run.step.train()
        if run.accelerator.num_processes == 1:  # several stop at the step before which all knew of the signal
            stopped = signals.received
        if stopped or last or (config.save.every and step % config.save.every == 0):
            run.save(step)
        if stopped and not last:
            advice = "The same command resumes it" if config.resume != "never" else "Resume it with resume=auto"
            raise StoppedError(
                f"stopped after step {step} of {run.steps}, saved in {state.folder_of(run.out, step)}. {advice}",
                stopped,
            )


def _gradients(
    run: Run, parts: list[Part], step: int, signal: int
) -> tuple[dict[str, float], list[list[bool]], float, int]:
    """Compute the gradients of one step; the host waits for the device once, for all that it asks.

    Returns:
        mean losses, over all processes; for each process whether the loss of each of its parts is finite; the norm of
        the gradient; the signal that a process received, or 0.
    """
    accelerator, rows = run.accelerator, [[0.0]]
    run.step.compiled = run.config.compile
    # not of a scaler, which unscales gradients once a step, nor of BatchNorm, which counts what it sees
    again = accelerator.scaler is None and not any(isinstance(m, COUNTING) and m.training for m in run.modules)
    for late in (True, False) if again else (False,):
        with assuming() if late else nullcontext(list[Tensor]()) as conditions:
            losses, totals = _backward(run, parts, step)
        if step == run.start + 1:
            _check_reached(run)
        names = sorted(losses)
        values = torch.stack([*totals, *(losses[name] for name in names), _norm(run)])
        held = torch.stack(conditions).all() if conditions else values.new_ones(())
        values = torch.cat([values, held[None].float(), values.new_full((1,), signal)])
        rows = (accelerator.gather(values[None]) if accelerator.num_processes > 1 else values[None]).tolist()
        if all(row[-2] for row in rows):
            break
        if run.step.compiled:
            warnings.warn("compile: what its graph assumes of values does not hold: a step is done again", stacklevel=2)
        run.step.compiled = False  # once more: what was assumed is now looked at where it matters
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    finite = [[math.isfinite(total) for total in row[: len(parts)]] for row in rows]
    return dict(zip(names, means[len(parts) :], strict=False)), finite, means[-3], int(max(row[-1] for row in rows))


def _backward(run: Run, parts: list[Part], step: int) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Compute the gradients of one step; return mean losses, and each part's total."""
    from accelerate.utils import send_to_device

    run.optimizer.zero_grad()
    totals, rank, world = [], run.accelerator.process_index, run.accelerator.num_processes
    losses: dict[str, Tensor] = {}
    loss: Any = 0
    for index, (part, share) in enumerate(zip(parts, _shares(run, parts), strict=True)):
        batch = send_to_device(part[1], run.accelerator.device, non_blocking=True)
        # random numbers depend on seed, step and part of the joint batch alone: a resumed run repeats them
        seed_all(mix(run.config.seed, "step", step, index * world + rank, 0))
        before = random_states(run.accelerator.device) if step == run.start + 1 else None
        with run.accelerator.no_sync(run.wrapped) if index + 1 < len(parts) else nullcontext():
            try:
                result = run.wrapped(batch)
            except NonFiniteError as error:
                raise _fault(run, step, str(error), [_cause(run, [part])], part[0]) from error
            run.accelerator.backward(result.total * share)
        if before is not None:
            run.draws = run.draws or before != random_states(run.accelerator.device)
        totals.append(result.total.detach())
        _check_names(run, sorted(result.logs))
        for name, value in result.logs.items():
            losses[name] = losses.get(name, 0) + value.detach().float() / len(parts)
        loss = loss + totals[-1] * share
    losses["loss"] = loss
    return losses, totals


def _shares(run: Run, parts: list[Part]) -> list[Any]:
    """What each part counts, times the processes, over which gradients are averaged."""
    weights = [run.step.objective.weight(batch) for _, batch in parts]
    if any(weight is None for weight in weights):
        return [1 / len(parts)] * len(parts)
    own = torch.stack([torch.as_tensor(weight, dtype=torch.float32) for weight in weights])
    own, world = own.to(run.accelerator.device), run.accelerator.num_processes
    every = run.accelerator.reduce(own.sum(), "sum") if world > 1 else own.sum()
    return list(own * world / every.clamp_min(torch.finfo(own.dtype).tiny))


def _check_reached(run: Run) -> None:
    """Refuse parameters without a gradient, for which several processes would wait."""
    idle = [name for name, p in run.step.named_parameters() if p.requires_grad and p.grad is None]
    if idle and run.accelerator.num_processes > 1:
        raise InputError(
            f"{type(run.step.objective).__name__}.setup lists {', '.join(idle[:4])}, which no loss depends on; "
            "several processes would wait for its gradient for ever. Leave it out of setup()"
        )


def _check_names(run: Run, names: list[str]) -> None:
    """Refuse losses that other parts and processes of the run have not, with which they would be averaged by place."""
    if run.logs is None:  # the first part: of the processes, another one's, if there are any
        from accelerate.utils import gather_object

        run.logs = next((each for each in gather_object([names]) if each != names), names)
    if names != run.logs and run.config.accumulate * run.accelerator.num_processes > 1:
        what = f"objective {type(run.step.objective).__name__}: a batch logs {names}, another one {run.logs}"
        raise ContractError("losses", f"{what}; expected the same names, as parts and processes are averaged")


def _names(batch: Any, indices: list[int]) -> list[Any]:
    names = batch.get("names", batch.get("name")) if isinstance(batch, Mapping) else None
    return list(names) if isinstance(names, (list, tuple)) else indices


def _norm(run: Run) -> Tensor:
    """Of the gradient, []."""
    run.accelerator.unscale_gradients(run.optimizer)
    grads = [p.grad for p in run.step.parameters() if p.requires_grad and p.grad is not None]
    norms = [norm.to(run.accelerator.device) for norm in torch._foreach_norm(grads)] if grads else []
    return torch.stack(norms).float().norm() if norms else torch.zeros((), device=run.accelerator.device)


def _culprit(run: Run) -> tuple[str, bool]:
    """The parameter whose gradient makes the norm infinite or NaN, and whether elements of it are."""
    grads = [(name, p.grad) for name, p in run.step.named_parameters() if p.requires_grad and p.grad is not None]
    for name, grad in grads:
        if not bool(grad.isfinite().all()):
            return name, True
    return max(grads, key=lambda pair: float(pair[1].norm()))[0], False  # finite, but its square overflows


def _refuse(run: Run, step: int, parts: list[Part], finite: list[bool], bad: str | None) -> None:
    """Raise NonFiniteError, the same in every process."""
    from accelerate.utils import gather_object

    loss = [name for (ids, _), ok in zip(parts, finite, strict=True) if not ok for name in ids]
    report = [(loss, bad, [name for ids, _ in parts for name in ids], _cause(run, parts))]
    every = gather_object(report) if run.accelerator.num_processes > 1 else report
    losses = [name for part, _, _, _ in every for name in part]
    tensor = "loss" if losses else f"the gradient of {next(name for _, name, _, _ in every if name)}"
    samples = losses or [name for _, _, part, _ in every for name in part]
    raise _fault(run, step, f"{tensor} is NaN or infinite", [cause for _, _, _, cause in every], samples)


def _cause(run: Run, parts: list[Part]) -> tuple[int, str]:
    """Why a step's numbers are not finite, as far as can be seen, and how far that is, 0 the nearest."""
    for ids, batch in parts:
        for key, values in batch.items() if isinstance(batch, Mapping) else ():
            floats = isinstance(values, Tensor) and values.is_floating_point() and len(values) == len(ids)
            if floats and key != "target":
                bad = [str(name) for name, value in zip(ids, values, strict=True) if not bool(value.isfinite().all())]
                if bad:
                    return 0, f"{key} of {', '.join(bad)} holds NaN or infinity: look at these samples"
    for name, parameter in run.step.named_parameters():
        if parameter.requires_grad and not bool(parameter.isfinite().all()):
            return 1, f"the training has diverged, {name} is NaN or infinite: lower optimizer.lr"
    if run.config.mixed_precision == "fp16":
        return 2, "the samples and weights are finite, float16 ends at 65504: set mixed_precision=bf16, or no"
    return 2, "the samples and weights are finite: the training diverges, lower optimizer.lr, or set mixed_precision=no"


def _fault(run: Run, step: int, what: str, causes: list[tuple[int, str]], samples: list[Any]) -> NonFiniteError:
    return NonFiniteError(
        f"step {step}: {what}; {min(causes)[1]}. Samples of the batch: {', '.join(map(str, samples[:64]))}. "
        f"{state.last_good(run.out)}"
    )


def _row(run: Run, step: int, losses: Mapping[str, float], lr: float, norm: float) -> dict[str, Any]:
    finite = _finite(losses)
    first, last = finite.pop("loss"), norm if math.isfinite(norm) else None
    row = {"step": step, "loss": first, "losses": finite, "lr": lr, "grad_norm": last}
    return {**row, "seconds": round(run.seconds, 3)}


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """None for what is not finite, which JSON cannot hold."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
