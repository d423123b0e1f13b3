"""A third party's plugin for the tests of the training loop: tiny parts, and an objective that can fail."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from plugin_sandbox import distribution

from dense_ctx import AutoDenseModel, plugins
from dense_ctx.train import TrainConfig
from dense_ctx.train.log import read_log

INIT = """
from dense_ctx import hookimpl

@hookimpl
def register_parts(register):
    register("backbone", "sandbox", "sandbox_train.parts:Backbone")
    register("decoder", "sandbox", "dense_ctx.testing.tiny:TinyDecoder")
    register("objective", "sandbox", "sandbox_train.parts:Shift")
    register("objective", "colours", "dense_ctx_template.objective:Colours")
"""

PARTS = '''
import os, random, signal, time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from dense_ctx import Losses, Objective, SeededDataset
from dense_ctx.testing.tiny import TinyBackbone


class Backbone(TinyBackbone):
    pass


class Noisy:
    """Images [3, 16, 24] with augmentation from all three global generators, or from the seed of `sample`."""

    def __init__(self, samples=7, poison=None, kill=None, slow=0.0):
        self.samples, self.poison, self.kill, self.slow = samples, poison, kill, slow

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        time.sleep(self.slow)
        base = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(index))
        noise = torch.randn(3, 16, 24) * 0.1 + random.random() * 0.1 + np.random.rand() * 0.1
        image = (base + noise).clamp(0, 1)
        return {"image": image * float("nan") if index == self.poison else image, "name": f"clip-{index}"}


class Seeded(Noisy, SeededDataset):
    def sample(self, index, seed):
        generator = torch.Generator().manual_seed(seed)
        if index == self.poison:
            return self[index]
        return {"image": torch.rand(3, 16, 24, generator=generator), "name": f"clip-{index}"}


class Shift(Objective):
    """Predict the image from its features; an average of the head's weights follows it."""

    def __init__(self, dropout=0.0, blow_up=None, signal_at=None, idle=False, draw="torch", extra=False):
        super().__init__()
        self.head = nn.Conv2d(5, 3, 1)
        self.register_buffer("average", torch.zeros(3, 5, 1, 1))
        self.dropout, self.blow_up, self.signal_at = dropout, blow_up, signal_at
        self.draw, self.extra = draw, extra
        if idle:
            self.unused = nn.Parameter(torch.zeros(2))

    def dataset(self, data):
        options = dict(data or {})
        return Seeded(**options) if options.pop("seeded", False) else Noisy(**options)

    def forward(self, model, batch):
        features, padded = model.encode(batch["image"])
        pixels = functional.dropout(model.decoder(features, padded, (16, 24)), self.dropout)
        loss = functional.mse_loss(self.head(pixels), batch["image"])
        if self.blow_up is not None and f"clip-{self.blow_up}" in batch["name"]:
            loss = loss + (self.head.bias - self.head.bias.detach()).sqrt().sum()  # 0, with an infinite gradient
        draws = {"torch": lambda: torch.rand([]), "numpy": np.random.rand, "python": random.random, "": float}
        logs = {"mse": loss, "drawn": torch.as_tensor(draws[self.draw]())}
        return Losses(loss, {**logs, batch["name"][0]: loss} if self.extra else logs)

    def after_step(self, model, step):
        self.average.lerp_(self.head.weight, 0.1)
        if step == int(os.environ.get("SANDBOX_KILL_AT", 0)):
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
'''


def lay_out(folder: Path) -> list[str]:
    """Write the distribution; returns what must be on sys.path."""
    template = Path(__file__).parent.parent / "examples" / "plugin_template"
    files = {"sandbox_train/__init__.py": INIT, "sandbox_train/parts.py": PARTS}
    distribution(folder, "sandbox-train", files, {"sandbox": "sandbox_train"})
    return [str(folder), str(template)]


def install(folder: Path, monkeypatch) -> None:
    """Make the plugin known in this process, until the test ends."""
    for path in lay_out(folder):
        monkeypatch.syspath_prepend(path)
    monkeypatch.setattr(plugins, "_registry", plugins.load_plugins(strict=True))
    for name in [name for name in sys.modules if name.startswith("sandbox_train")]:
        monkeypatch.delitem(sys.modules, name)


def settings(out: Path, **changes) -> dict:
    """A small run's configuration, as a mapping."""
    return {
        "out": str(out),
        "steps": 6,
        "batch_size": 4,
        "model": {"backbone": {"name": "sandbox"}, "decoder": {"name": "sandbox"}},
        "objective": {"name": "sandbox"},
        "data": {"samples": 7},
        "optimizer": {"lr": 1e-2},
        "save": {"every": 2, "keep": 2},
        "log": 1,
        **changes,
    }


def config(out, **changes):
    return TrainConfig.from_dict(settings(out, **changes))


def losses(out):
    return [(row["step"], row["loss"], row["losses"], row["lr"], row["grad_norm"]) for row in rows(out)]


def rows(out):
    return [row for row in read_log(out / "log.jsonl") if "loss" in row]


def weights(folder):
    return AutoDenseModel.from_pretrained(folder).state_dict()


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
