"""The hooks of plugins that a run calls: docs/training.md, "Callbacks"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import DenseCtxError
from ..model import DenseModel
from ..plugins import plugin_failed, registry
from .config import TrainConfig


class Callbacks:
    """Calls the training hooks of all plugins, in the first process; without any it does nothing.

    A plugin whose hook fails is named in a warning, and its hooks are not called again by this run.
    """

    def __init__(self, config: TrainConfig, step: int, active: bool) -> None:
        self.config, self.step = config, step
        self.plugins = list(registry().callbacks.items()) if active else []

    def __call__(self, name: str, step: int, **arguments: Any) -> None:
        """Call the hook `name` of each plugin.

        Raises:
            DenseCtxError: a plugin refuses the run, from training_start alone.
            PluginError: a hook fails, and plugins are strict (`plugin_failed`).
        """
        self.step = step
        for owner, hooks in [each for each in self.plugins if name in each[1]]:
            try:
                hooks[name]({"config": self.config, "step": step, **arguments})
            except Exception as error:
                if name == "training_start" and isinstance(error, DenseCtxError):
                    raise
                self.plugins.remove((owner, hooks))
                what = f"{owner} failed in {name}, step {step}; this run calls its hooks no more"
                plugin_failed(what, owner, error)

    @contextmanager
    def around(self, model: DenseModel, folder: Path) -> Iterator[None]:
        """Within the context the plugins know of a run, whose model `folder` will hold."""
        self("training_start", self.step, model=model)
        try:
            yield
        except BaseException as error:
            self("training_end", self.step, folder=None, error=error)
            raise
        self("training_end", self.step, folder=folder, error=None)
