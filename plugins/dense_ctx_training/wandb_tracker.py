"""Weights & Biases, offline unless asked for otherwise."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any, Literal

import wandb  # noqa: F401  raises where the package is not installed

from .tracker import PROJECT, AccelerateTracker, known_run, remember_run


class WandB(AccelerateTracker):
    """A run of Weights & Biases. Its environment variables (WANDB_MODE, WANDB_RUN_GROUP, WANDB_TAGS ...) hold.

    Args:
        project: its project; default WANDB_PROJECT, else dense-ctx.
        name: of the run; default WANDB_NAME, else the name of its folder.
        entity: user or team; default WANDB_ENTITY, else the user's own.
        mode: online, offline or disabled; default WANDB_MODE, else offline: files in OUT/wandb, for `wandb sync`.
    """

    name = "wandb"

    def __init__(
        self,
        project: str | None = None,
        name: str | None = None,
        entity: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
    ) -> None:
        self.project = project or os.environ.get("WANDB_PROJECT") or PROJECT
        self.options = {"name": name, "entity": entity, "mode": mode or os.environ.get("WANDB_MODE") or "offline"}

    def arguments(self, out: Path, step: int) -> tuple[list[Any], dict[str, Any]]:
        """Of Accelerate's class, which hands the named ones to `wandb.init`."""
        run = os.environ.get("WANDB_RUN_ID") or known_run(out, self.name) or secrets.token_hex(4)
        remember_run(out, self.name, run)
        options = {key: value for key, value in self.options.items() if value is not None}
        fallback = {} if os.environ.get("WANDB_NAME") else {"name": out.resolve().name}
        place = {} if os.environ.get("WANDB_DIR") else {"dir": str(out)}
        return [self.project], {"id": run, "resume": "allow", **fallback, **place, **options}

    def close(self, failed: bool) -> None:
        """Finish, as a run that failed if it did."""
        self.inner.tracker.finish(exit_code=int(failed))
