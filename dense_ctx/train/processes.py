"""The processes of a training: their accelerators, and what the first one does alone."""

from __future__ import annotations

import atexit
import datetime
import os
from collections.abc import Callable
from typing import Any

from ..environment import end_process_group, pick_device
from ..errors import ConfigError, DenseCtxError, FileError


def prepare_accelerator(mixed_precision: str) -> Any:
    """Accelerate's view of the processes and their devices.

    Raises:
        ConfigError: the precision is not to be had on this machine, or Accelerate is set to shard states.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and pick_device("auto") == "cpu":
        # left alone, Accelerate takes each process of a CPU machine for the only one
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state()  # an earlier run of this process may have had another precision
    # the first process may validate or save for long while the others wait
    patience = InitProcessGroupKwargs(timeout=datetime.timedelta(hours=3))
    try:
        accelerator = Accelerator(mixed_precision=mixed_precision, kwargs_handlers=[patience])
    except ValueError as error:
        raise ConfigError(f"mixed_precision={mixed_precision} does not go here: {error}") from error
    # without a scaler Accelerate would train in float32 and not say so
    if mixed_precision == "fp16" and accelerator.scaler is None:
        raise ConfigError(f"mixed_precision=fp16 needs an accelerator, not {accelerator.device.type}; use bf16, or no")
    kind = accelerator.distributed_type
    if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ConfigError(
            f"Accelerate is set to {kind.value}, whose sharded states this loop cannot save. Use DDP: "
            "only the trained part has gradients and optimizer states, the frozen backbone has neither"
        )
    if accelerator.num_processes > 1:
        atexit.register(end_process_group)
    return accelerator


def in_main(accelerator: Any, work: Callable[[], object]) -> None:
    """Do it in the first process while the others wait; if it fails, it fails in all of them."""
    failure: DenseCtxError | None = None
    if accelerator.is_main_process:
        try:
            work()
        except DenseCtxError as error:
            failure = error
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        messages = broadcast_object_list([None if failure is None else f"{type(failure).__name__}: {failure}"])
        if failure is None and messages[0] is not None:
            raise FileError(f"process 0 failed: {messages[0]}")
    if failure is not None:
        raise failure
