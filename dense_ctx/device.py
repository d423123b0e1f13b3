"""Device policy: the device of a process, its process group, and the float32 arithmetic.

A model is put on its device when it is opened, before anything is done with it; what is made beside it follows it.
Features are there, and a probe's predictions are where the features are. Files, and what `InContext` and `track` give,
are on the CPU.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import re
from datetime import timedelta

from .errors import InputError

PATIENCE = timedelta(hours=3)  # the first process may validate or save for long while the others wait


def processes() -> tuple[int, int]:
    """This process' number and how many torchrun, `accelerate launch` or srun started."""
    given = os.environ
    if "RANK" not in given and int(given.get("SLURM_STEP_NUM_TASKS", "1")) > 1:  # an srun: in torchrun's own words
        first = re.sub(r"\[(\d+).*", r"\1", given["SLURM_STEP_NODELIST"]).partition(",")[0]  # node[03-07,11], a,b
        given.setdefault("MASTER_ADDR", first)
        given.setdefault("MASTER_PORT", str(20_000 + int(given["SLURM_JOB_ID"] + given["SLURM_STEP_ID"]) % 20_000))
        given.update(
            RANK=given["SLURM_PROCID"], WORLD_SIZE=given["SLURM_STEP_NUM_TASKS"], LOCAL_RANK=given["SLURM_LOCALID"],
            LOCAL_WORLD_SIZE=given["SLURM_STEP_TASKS_PER_NODE"].partition("(")[0].partition(",")[0],
        )  # fmt: skip
    world = int(given.get("WORLD_SIZE", "1"))
    return (int(given.get("RANK", "0")), world) if world > 1 else (0, 1)


def pick_device(name: str = "auto") -> str:
    """`name`, or the best there is for "auto"; of several processes each takes its own accelerator.

    The device becomes PyTorch's current one, so that nothing is done on cuda:0 for a model on cuda:1.

    Raises:
        InputError: there is no such device, or one that several processes would share.
    """
    import torch

    local, (_, world) = int(os.environ.get("LOCAL_RANK") or 0), processes()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = getattr(torch.backends, "mps", None)
    if name == "auto":
        name = "cuda" if count else "mps" if mps and mps.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cuda", "meta"):
        with contextlib.suppress(RuntimeError, AssertionError):
            torch.empty(0, device=name)
            return "cpu" if kind == "cpu" else name
    elif kind == "cuda" and count:
        if index and world > 1:
            raise InputError(f"device {name} is one for {world} processes: write cuda, and each takes its own")
        index = index or str(local % count if world > 1 else torch.cuda.current_device())
        if index.isdecimal() and int(index) < count:
            torch.cuda.set_device(int(index))
            return f"cuda:{int(index)}"
    devices = ", ".join(["cpu", *(f"cuda:{number}" for number in range(count))])
    raise InputError(f"There is no device {name!r} here: {devices}, or auto, the best of them")


def join_group(device: str) -> None:
    """Form the default process group of torch.distributed, once: of all that a training on `device` will need."""
    from torch import distributed

    if processes()[1] > 1 and not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") and distributed.is_nccl_available() else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)
        atexit.register(end_process_group)


def wait_for_everyone() -> None:
    """Wait until all processes have reached this call; uses the backend of the CPU."""
    if processes()[1] > 1:
        import torch

        join_group(pick_device())
        torch.distributed.all_reduce(torch.zeros(1))


def end_process_group() -> None:
    """Leave the default process group of torch.distributed, if there is one.

    DistributedDataParallel wrappers hold the group and its threads in a reference cycle. A thread that needs the GIL
    during interpreter shutdown aborts the process, so wrappers are collected first.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        gc.collect()
        distributed.destroy_process_group()
        gc.collect()
