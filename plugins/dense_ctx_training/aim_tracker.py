"""Aim: a repository on this machine, or one that its user names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aim

from .tracker import PROJECT, AccelerateTracker, Value, known_run, remember_run


class Aim(AccelerateTracker):
    """A run in an Aim repository.

    Args:
        repo: folder of the repository, or its aim:// address; default, as Aim's own, the nearest folder from the
            working directory upwards with a .aim, else the working directory.
        experiment: its experiment.
        name: of the run; default the name of its folder.
    """

    name = "aim"

    def __init__(self, repo: str | None = None, experiment: str = PROJECT, name: str | None = None) -> None:
        self.repo, self.experiment, self.run_name = repo, experiment, name

    def arguments(self, out: Path, step: int) -> tuple[list[Any], dict[str, Any]]:
        """Of Accelerate's class, which hands the named ones to `aim.Run`."""
        repo = self.repo or aim.Repo.default_repo_path()
        run = known_run(out, self.name)
        return [self.run_name or out.resolve().name, repo], {"run_hash": run, "experiment": self.experiment}

    def store(self, out: Path, config: Mapping[str, Value]) -> None:
        """Store the configuration, and the run's hash."""
        remember_run(out, self.name, self.inner.tracker.hash)
        super().store(out, config)
