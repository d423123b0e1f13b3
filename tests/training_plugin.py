"""A third party's plugin with training hooks and a tracker, for the tests of both; what they are told is in `seen`."""

from __future__ import annotations

import sys
from pathlib import Path

import train_parts
from plugin_sandbox import distribution

from dense_ctx import plugins

INIT = """
from dense_ctx import hookimpl

seen, fail = [], {}  # calls; the exception that a hook raises, by its name


def note(name, **told):
    seen.append((name, told))
    if name in fail:
        raise fail[name]


@hookimpl
def register_parts(register):
    register("tracker", "notebook", "listening.notebook:Notebook")


@hookimpl
def training_start(config, model, step):
    note("training_start", config=config, model=model, step=step)


@hookimpl
def training_step(values, step):  # those arguments that it uses, in its own order
    note("training_step", step=step, values=values)


@hookimpl
def training_evaluation(config, model, step, scores):
    note("training_evaluation", training=model.training, step=step, scores=scores)


@hookimpl
def training_checkpoint(step, folder):
    note("training_checkpoint", step=step, folder=folder)


@hookimpl
def training_end(config, step, folder, error):
    note("training_end", step=step, folder=folder, error=error)
"""

NOTEBOOK = """
from dense_ctx_training.tracker import Tracker

calls, fail = [], {}


class Notebook(Tracker):
    def __init__(self, title: str = "none", pages: int = 3):
        self.title = title

    def note(self, name, *told):
        calls.append((name, self.title, *told))
        if name in fail:
            raise fail[name]

    def open(self, out, step, config):
        self.note("open", out, step, config)

    def log(self, values, step):
        self.note("log", step, values)

    def close(self, failed):
        self.note("close", failed)
"""


def install(folder: Path, monkeypatch):
    """Make it and `train_parts` known until the test ends; returns its package and its tracker's module."""
    train_parts.install(folder / "parts", monkeypatch)
    files = {"listening/__init__.py": INIT, "listening/notebook.py": NOTEBOOK}
    distribution(folder / "listening", "listening-parts", files, {"listening": "listening"})
    monkeypatch.syspath_prepend(folder / "listening")
    for name in [name for name in sys.modules if name.startswith("listening")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(plugins, "_registry", plugins.load_plugins(strict=True))
    import listening
    import listening.notebook

    return listening, listening.notebook
