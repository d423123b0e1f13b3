"""The environment of a run: versions, machine, memory."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def describe_environment(device: Any = None) -> dict[str, Any]:
    """Versions, machine, the current float32 settings (TF32), and git revision."""
    import torch

    from .numerics import float32_settings

    versions = {}
    for package in ("dense-ctx", "torch", "timm", "transformers", "numpy", "scipy"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    device = torch.device("cpu") if device is None else torch.device(device)
    return {
        "versions": {"python": platform.python_version(), **versions},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "arithmetic": float32_settings() | {k: v for k, v in os.environ.items() if k == "NVIDIA_TF32_OVERRIDE"},
        "git": git_revision(),
    }


def git_revision() -> str | None:
    """Commit of the source tree this package runs from, "+changes" if it differs; None for an installed package."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        describe = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
        revision = subprocess.run(describe, cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return revision.stdout.strip() or None


def command_line() -> str:
    """The command of this process; words with spaces are quoted."""
    name = "dense-ctx" if Path(sys.argv[0]).stem == "cli" else Path(sys.argv[0]).name
    return " ".join(json.dumps(word) if " " in word else word for word in [name, *sys.argv[1:]])


def peak_memory_mb(device: Any = None) -> dict[str, float]:
    """Peak memory of the process so far, and of the accelerator, in MB; {} where the system does not report it."""
    import torch

    peaks = {}
    with contextlib.suppress(ImportError):  # Windows has no such module
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peaks["process"] = peak / (1e6 if sys.platform == "darwin" else 1e3)
    if device is not None and torch.device(device).type == "cuda":
        peaks["accelerator"] = torch.cuda.max_memory_allocated(device) / 1e6
    return {key: round(value, 1) for key, value in peaks.items()}
