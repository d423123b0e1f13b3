"""The processes of a training: accelerators, work of the main process alone, and joint termination on failure."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch

from ..device import check_alike, join_group, pick_device, processes
from ..errors import ConfigError, DenseCtxError, FileError, cause_of
from .config import TrainConfig

# of Accelerate's variables, those that change nothing
_FREE = ("DEBUG_MODE", "CPU_AFFINITY", "LOG_LEVEL", "ENABLE_RICH", "DYNAMO_MODE")
_POLL, _GRACE = 0.2, 4.0  # seconds
_runs = itertools.count()


def prepare_accelerator(config: TrainConfig) -> tuple[Any, TrainConfig]:
    """Accelerate's view of the processes and their devices, and the configuration with the precision that holds.

    Raises:
        InputError: no such device.
        ConfigError: the precision is not to be had on it, or Accelerate's variables ask for another run than `config`.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from accelerate.utils import GradientAccumulationPlugin

    on_cpu = config.device == "auto" and os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    device = pick_device("cpu" if on_cpu else config.device)
    precision = config.mixed_precision
    if precision == "auto":
        cuda = device.startswith("cuda")
        fast = torch.cuda.is_bf16_supported(False) if cuda else torch.cpu._is_avx512_bf16_supported()
        precision = "bf16" if fast and (cuda or device == "cpu") else "no"
    _check_variables(device, precision, config.accumulate)
    join_group(device)
    check_alike(device, precision)
    if os.environ.get("LOCAL_RANK") == "":
        del os.environ["LOCAL_RANK"]  # of one process: not set, but no number to Accelerate
    # what an earlier run of this process, or anyone in it, has left
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    try:
        state = PartialState(cpu=device == "cpu")
        state.device = torch.device(device)
        accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision="no" if precision == "tf32" else precision,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # the loop's own work
        )
    except ValueError as error:
        raise ConfigError(f"mixed_precision={precision} does not go here: {error}") from error
    # without a scaler Accelerate would train in float32 and not say so
    if precision == "fp16" and accelerator.scaler is None:
        raise ConfigError(f"mixed_precision=fp16 needs an accelerator, not {accelerator.device.type}; use bf16, or no")
    return accelerator, replace(config, mixed_precision=precision)


def _check_variables(device: str, precision: str, accumulate: int) -> None:
    """Refuse what `accelerate config`, or a shell, asks for beside the configuration."""
    agreed = {"MIXED_PRECISION": precision, "GRADIENT_ACCUMULATION_STEPS": str(accumulate)}
    for name, value in os.environ.items():
        key = name.removeprefix("ACCELERATE_")
        plain = value.lower() in ("", "no", "none", "false", agreed.get(key, "0"))
        free = (*_FREE, "USE_CPU") if device == "cpu" else _FREE
        if key == name or key in free or plain or (key == "GRADIENT_ACCUMULATION_STEPS" and value == "1"):
            continue
        sharded = key in ("USE_FSDP", "USE_DEEPSPEED", "USE_MEGATRON_LM")
        raise ConfigError(
            f"{name}={value} would change the run beside its configuration. "
            + (
                "Its sharded states this loop cannot save: use DDP (torchrun, or `accelerate config` without it); only "
                "the trained part has gradients and optimizer states, a frozen backbone its weights alone"
                if sharded
                else "Unset it (`accelerate config`), and say mixed_precision, accumulate, device or clip_norm there"
            )
        )


@contextmanager
def ending_together() -> Iterator[None]:
    """Within the context, a failure of one process ends all within seconds, with the message of the first.

    A process that waits for one that is gone may wait for hours (NCCL). A thread looks for the others' last words, and
    ends this process if it does not end by itself.

    Raises:
        DenseCtxError: another process failed.
    """
    rank, world = processes()
    if world == 1:
        yield
        return
    store = torch.distributed.distributed_c10d._get_default_store()
    own, key, over = store.clone(), f"dense_ctx/{next(_runs)}", threading.Event()

    def watch() -> None:
        message = "the process that the others meet at has ended"
        with suppress(Exception):  # of a store whose process has ended
            while not own.check([key]):
                if over.wait(_POLL):
                    return
            message = own.get(key).decode()
            own.add(f"{key}/read", 1)
        if not over.wait(_GRACE):
            print(f"error: {message}", file=sys.stderr, flush=True)
            os._exit(1)  # the main thread waits for a process that will not come

    threading.Thread(target=watch, name="dense_ctx: other processes", daemon=True).start()
    try:
        yield
    except BaseException as error:
        message = f"process {rank} failed: {cause_of(error)}"
        lost = isinstance(error, RuntimeError) and ("gloo" in str(error) or "NCCL" in str(error))  # torch's
        with suppress(Exception):
            if lost:
                message = "another process was killed; the machine may be out of memory"
            message = store.compare_set(key, "", message).decode()
            until = time.monotonic() + _GRACE - 1
            readers = world - lost  # but one that was killed; the others' store may end with us
            while store.add(f"{key}/read", 0) < readers and time.monotonic() < until:
                time.sleep(_POLL / 4)
        if lost:
            raise DenseCtxError(message) from error
        raise
    finally:
        over.set()


def in_main(accelerator: Any, work: Callable[[], Any]) -> Any:
    """Its result in the first process, given to all; the others wait for it, and if it fails, it fails in all."""
    failure, result = None, None
    if accelerator.is_main_process:
        try:
            result = work()
        except DenseCtxError as error:
            failure = error
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        text, result = broadcast_object_list([failure and f"{type(failure).__name__}: {failure}", result])
        if text and failure is None:
            raise FileError(f"process 0 failed: {text}")
    if failure is not None:
        raise failure
    return result
