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
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from .errors import ConfigError, InputError
from .partial_files import machine

PATIENCE = timedelta(hours=3)  # the first process may validate or save for long while the others wait


def launched(name: str, default: str = "", fits: Callable[[str], bool] = str.isdecimal) -> str:
    """A variable that launchers set for each process, of which `fits` holds; `default` where it is not set.

    Raises:
        ConfigError: it is another value, or not set.
    """
    value = os.environ.get(name) or default
    if fits(value):
        return value
    raise ConfigError(
        f"{name} is {repr(value) if value else 'not set'}; expected what torchrun, accelerate launch or srun set for "
        "each process: a whole number, for RANK one below WORLD_SIZE, and machines in MASTER_ADDR and "
        "SLURM_STEP_NODELIST. Start by one of them, and let all its variables through (into a container, say); or, for "
        "one process alone, unset RANK, WORLD_SIZE, LOCAL_RANK and SLURM_STEP_NUM_TASKS"
    )


def processes() -> tuple[int, int]:
    """This process' number and how many torchrun, `accelerate launch` or srun started.

    Raises:
        ConfigError: a variable of theirs is missing or no number, as `launched` says.
    """
    env = os.environ
    tasks = "1" if env.get("RANK") else launched("SLURM_STEP_NUM_TASKS", "1")
    if int(tasks) > 1:  # an srun: in torchrun's own words
        nodes = launched("SLURM_STEP_NODELIST", fits=bool)  # node[03-07,11], a,b
        share = launched("SLURM_STEP_TASKS_PER_NODE", fits=lambda value: value[:1].isdecimal())  # 4(x2), 3
        port = 20_000 + int(launched("SLURM_JOB_ID") + launched("SLURM_STEP_ID")) % 20_000
        env.update(
            RANK=launched("SLURM_PROCID"), WORLD_SIZE=tasks, LOCAL_RANK=launched("SLURM_LOCALID"),
            LOCAL_WORLD_SIZE=share.partition("(")[0].partition(",")[0],
            MASTER_ADDR=env.get("MASTER_ADDR") or re.sub(r"\[(\d+).*", r"\1", nodes).partition(",")[0],
            MASTER_PORT=env.get("MASTER_PORT") or str(port),
        )  # fmt: skip
    world = int(launched("WORLD_SIZE", "" if env.get("RANK") else "1", lambda text: text.isdecimal() and int(text) > 0))
    rank = launched("RANK", "0" if world == 1 else "", lambda value: value.isdecimal() and int(value) < world)
    return int(rank), world


def pick_device(name: str = "auto") -> str:
    """`name`, or the best there is for "auto"; of several processes each takes its own accelerator.

    The device becomes PyTorch's current one, so that nothing is done on cuda:0 for a model on cuda:1.

    Raises:
        InputError: there is no such device, or one that several processes would share. ConfigError: as `processes`.
    """
    import torch

    local = int(launched("LOCAL_RANK", "0" if (world := processes()[1]) == 1 else ""))  # Accelerate needs it
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "mps" if torch.backends.mps.is_available() else "cpu"
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
    """Form the default group of torch.distributed, once: of all that a training on `device` needs. As `launched`."""
    from torch import distributed

    if processes()[1] > 1 and not distributed.is_initialized():
        launched("MASTER_ADDR", fits=bool)
        launched("MASTER_PORT")
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") and distributed.is_nccl_available() else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)
        atexit.register(end_process_group)


def check_alike(device: str, precision: str) -> None:
    """Compare the processes' devices: another kind or precision is refused, another card is a warning.

    Raises:
        ConfigError: processes share a card, have devices of different kinds, or "auto" gives them other precisions.
    """
    import torch

    cuda, (rank, world) = device.startswith("cuda"), processes()
    own = torch.cuda.get_device_name(device) if cuda else device
    card = (machine(), str(getattr(torch.cuda.get_device_properties(device), "uuid", device))) if cuda else rank
    every: list[Any] = [((own, device.partition(":")[0], precision), card)] * world
    if world > 1:
        torch.distributed.all_gather_object(every, every[0])
    cards, places = zip(*every, strict=True)
    if shared := [str(number) for number, place in enumerate(places) if places.count(place) > 1]:
        raise ConfigError(f"Processes {', '.join(shared)} share a GPU: start as many on a machine as it has")
    if len(set(cards)) > 1:
        listed = "; ".join(f"process {rank}: {card}, {arithmetic}" for rank, (card, _, arithmetic) in enumerate(cards))
        if len({card[1:] for card in cards}) > 1:
            raise ConfigError(f"The processes would compute differently ({listed}): set device, and mixed_precision")
        warnings.warn(f"The processes have different cards; each step waits for the slowest ({listed})", stacklevel=3)


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
