"""Where a run takes place: versions, machine, memory, and the processes that share it."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def describe_environment(device: Any = None) -> dict[str, Any]:
    """Versions, machine and git revision."""
    import torch

    versions = {}
    for package in ("dense-ctx", "torch", "timm", "transformers", "numpy", "scipy"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    device = torch.device("cpu") if device is None else torch.device(device)
    return {
        "versions": {"python": platform.python_version(), **versions},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "git": git_revision(),
    }


def pick_device(name: str) -> str:
    """`name`, or the best there is for "auto"; of several processes each takes its own accelerator."""
    import torch

    if name != "auto":
        return name
    if torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    mps = getattr(torch.backends, "mps", None)
    return "mps" if mps and mps.is_available() else "cpu"


def git_revision() -> str | None:
    """Commit of the source tree this package runs from, "+changes" if it differs; None for an installed package."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        head, changes = (
            subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=10)
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def peak_memory_mb(device: Any = None) -> dict[str, float]:
    """Peak of the process so far, and of the accelerator, in MB; {} where the system does not say."""
    import torch

    peaks = {}
    with contextlib.suppress(ImportError):  # Windows has no such module
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peaks["process"] = peak / (1e6 if sys.platform == "darwin" else 1e3)
    if device is not None and torch.device(device).type == "cuda":
        peaks["accelerator"] = torch.cuda.max_memory_allocated(device) / 1e6
    return {key: round(value, 1) for key, value in peaks.items()}


def processes() -> tuple[int, int]:
    """This process' number and how many `torchrun` or `accelerate launch` started."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return 0, 1
    state = _state()
    return state.process_index, state.num_processes


def wait_for_everyone() -> None:
    """Wait until all processes are here."""
    if processes()[1] > 1:
        _state().wait_for_everyone()


def _state() -> Any:
    """Accelerate's view of the processes. They exchange nothing but "I am here", so the CPU's backend does.

    Without cpu=True every process of a machine that has no accelerator would take itself for the only one.
    """
    from accelerate import PartialState

    atexit.unregister(end_process_group)  # once, however often this is asked
    atexit.register(end_process_group)
    return PartialState(cpu=True)


def end_process_group() -> None:
    """Leave the default process group of torch.distributed, if there is one.

    A DistributedDataParallel wrapper holds the group in a reference cycle, and with it the group's threads. A thread
    that asks for the interpreter's lock while the interpreter ends aborts the process ("terminate called without an
    active exception"), so wrappers go first.
    """
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()
        gc.collect()
